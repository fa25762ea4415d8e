"""The program of one pool process: the only place where the embedded Rego engine is imported.

The engine can be made to overflow its stack, eat all memory or never return, and then takes its
process with it; so it lives here, behind pipes, with bounded memory and processor time, without
environment, and may be killed at any moment. This module must never open a file, a socket or a
thread, and never import anything of the gateway.

Protocol on stdin and stdout: a message is two frames, each a 4-byte big-endian length and bytes:
a JSON header and a payload (an input document, an answer, or nothing).
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import struct
import sys
from collections import OrderedDict
from typing import Any, BinaryIO

LOADED_WORLDS = 64
SPARE_CPU_SECONDS = 2


def main() -> int:
    """Serve requests until the parent closes the pipe or asks for too much."""
    memory = int(sys.argv[1])
    # The answers go through a private descriptor: nothing the engine prints can forge one.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    requests = sys.stdin.buffer
    import regorus

    _limit(memory)
    _send(answers, {"ok": True}, b"")
    worlds: OrderedDict[str, Any] = OrderedDict()
    while (header := _receive(requests)) is not None:
        payload = _receive(requests) or b""
        request = json.loads(header)
        _allow_cpu(request.get("seconds", 1.0))
        try:
            reply, answer = _serve(regorus, worlds, request, payload)
        except Exception as error:  # the engine's errors have no common type
            reply, answer = {"ok": False, "detail": _plain(error)}, b""
        _send(answers, reply, answer)
    return 0


def _serve(
    regorus: Any, worlds: OrderedDict[str, Any], request: dict[str, Any], payload: bytes
) -> tuple[dict[str, Any], bytes]:
    """Answer one request; engine errors pass through."""
    operation = request["op"]
    if operation == "parse":
        return {"ok": True}, _load(regorus, json.loads(payload)).get_ast_as_json().encode()
    if operation == "load":
        worlds[request["world"]] = _load(regorus, json.loads(payload))
        while len(worlds) > LOADED_WORLDS:
            worlds.popitem(last=False)
        return {"ok": True}, b""
    if operation == "coverage":
        return {"ok": True}, _coverage(regorus, json.loads(payload), request["queries"])
    engine = worlds.get(request["world"])
    if engine is None:
        return {"ok": False, "unknown_world": True, "detail": "not loaded"}, b""
    worlds.move_to_end(request["world"])
    if operation == "many":
        return {"ok": True}, _many(engine, request["query"], json.loads(payload))
    engine.set_input_json(payload.decode())
    return {"ok": True}, engine.eval_query_as_json(request["query"]).encode()


def _many(engine: Any, query: str, documents: list[str]) -> bytes:
    """Answers to one query on many inputs; an error takes the place of its answer."""
    answers = []
    for document in documents:
        try:
            engine.set_input_json(document)
            answers.append({"ok": True, "answer": engine.eval_query_as_json(query)})
        except Exception as error:  # the engine's errors have no common type
            answers.append({"ok": False, "detail": _plain(error)})
    return json.dumps(answers).encode()


def _coverage(regorus: Any, modules: list[list[str]], queries: list[str]) -> bytes:
    """Which lines of the modules the queries reach; a query that fails reaches what it reached."""
    engine = _load(regorus, modules)
    engine.set_enable_coverage(True)
    for query in queries:
        with contextlib.suppress(Exception):
            engine.eval_query_as_json(query)
    return str(engine.get_coverage_report_as_json()).encode()


def _load(regorus: Any, modules: list[list[str]]) -> Any:
    engine = regorus.Engine()
    for name, text in modules:
        engine.add_policy(name, text)
    return engine


def _limit(memory: int) -> None:
    """Bound what a policy can take from the machine, beyond what the process has already."""
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123 - pathlib costs 10 ms
        present = int(statm.read().split()[0]) * resource.getpagesize()
    limit = present + memory
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))


def _allow_cpu(seconds: float) -> None:
    """Processor time is counted from birth, so the limit moves ahead with each request."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime + seconds) + SPARE_CPU_SECONDS
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))


def _plain(error: BaseException) -> str:
    """The engine's message without its native stack."""
    return str(error).split("\n\nStack backtrace:", 1)[0].strip()[:4000]


def _receive(stream: BinaryIO) -> bytes | None:
    size = stream.read(4)
    if len(size) < 4:
        return None
    (length,) = struct.unpack(">I", size)
    return stream.read(length)


def _send(stream: BinaryIO, header: dict[str, Any], payload: bytes) -> None:
    text = json.dumps(header).encode()
    stream.write(struct.pack(">I", len(text)) + text + struct.pack(">I", len(payload)) + payload)
    stream.flush()


if __name__ == "__main__":
    sys.exit(main())
