"""The program of one pool process: the only place where the embedded Rego engine is imported.

The engine can be made to overflow its stack, eat all memory or never return, and then takes its
process with it; so it lives here, behind pipes, with bounded memory and processor time, without
environment, and may be killed at any moment. This module must never open a file, a socket or a
thread, and never import anything of the gateway.

Protocol on stdin and stdout, one request at a time: two 4-byte big-endian lengths and, in a
request, the seconds it may take (a double); then a JSON header and a payload (an input document, an
answer, or nothing). Headers repeat from request to request, so they are read once.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import struct
import sys
import time
from collections import OrderedDict
from functools import lru_cache
from typing import Any

LOADED_WORLDS = 64
SPARE_CPU_SECONDS = 2
# Lengths of header and payload, and the seconds a request may take; the pool uses the same.
REQUEST = struct.Struct(">IId")
ANSWER = struct.Struct(">II")
CHUNK = 1 << 16
OK = b'{"ok": true}'
UNKNOWN_WORLD = b'{"ok": false, "unknown_world": true, "detail": "not loaded"}'


def main() -> int:
    """Serve requests until the parent closes the pipe or asks for too much."""
    memory = int(sys.argv[1])
    # The answers go through a private descriptor: nothing the engine prints can forge one.
    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    import regorus

    _limit(memory)
    _send(answers, OK, b"")
    worlds: OrderedDict[str, Any] = OrderedDict()
    processor = 0.0
    while (message := _receive(0)) is not None:
        seconds, header, payload = message
        processor = _allow_cpu(seconds, processor)
        try:
            reply, answer = _serve(regorus, worlds, _request(header), payload)
        except Exception as error:  # the engine's errors have no common type
            reply, answer = json.dumps({"ok": False, "detail": _plain(error)}).encode(), b""
        _send(answers, reply, answer)
    return 0


@lru_cache(maxsize=256)
def _request(header: bytes) -> dict[str, Any]:
    """The header read; never changed by anybody."""
    request: dict[str, Any] = json.loads(header)
    return request


def _serve(
    regorus: Any, worlds: OrderedDict[str, Any], request: dict[str, Any], payload: bytes
) -> tuple[bytes, bytes]:
    """Answer one request; engine errors pass through."""
    operation = request["op"]
    if operation == "parse":
        return OK, _load(regorus, json.loads(payload)).get_ast_as_json().encode()
    if operation == "load":
        worlds[request["world"]] = _load(regorus, json.loads(payload))
        while len(worlds) > LOADED_WORLDS:
            worlds.popitem(last=False)
        return OK, b""
    if operation == "coverage":
        return OK, _coverage(regorus, json.loads(payload), request["queries"])
    engine = worlds.get(request["world"])
    if engine is None:
        return UNKNOWN_WORLD, b""
    worlds.move_to_end(request["world"])
    if operation == "many":
        return OK, _many(engine, request["query"], json.loads(payload))
    engine.set_input_json(payload.decode())
    return OK, engine.eval_query_as_json(request["query"]).encode()


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


def _allow_cpu(seconds: float, limit: float) -> float:
    """Processor time is counted from birth, so the limit moves ahead; in steps, as moving costs."""
    wanted = time.process_time() + seconds
    if wanted + SPARE_CPU_SECONDS / 2 <= limit <= wanted + SPARE_CPU_SECONDS + 1:
        return limit
    limit = int(wanted) + SPARE_CPU_SECONDS
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))
    return limit


def _plain(error: BaseException) -> str:
    """The engine's message without its native stack."""
    return str(error).split("\n\nStack backtrace:", 1)[0].strip()[:4000]


def _receive(descriptor: int) -> tuple[float, bytes, bytes] | None:
    """One whole request: seconds, header, payload; None when there is no more."""
    data = os.read(descriptor, CHUNK)
    while len(data) < REQUEST.size:
        more = os.read(descriptor, CHUNK)
        if not more:
            return None
        data += more
    head, size, seconds = REQUEST.unpack_from(data)
    body, whole = REQUEST.size + head, REQUEST.size + head + size
    chunks, missing = [data], whole - len(data)
    while missing > 0:
        chunks.append(os.read(descriptor, CHUNK))
        if not chunks[-1]:
            return None
        missing -= len(chunks[-1])
    if len(chunks) > 1:
        data = b"".join(chunks)
    return seconds, data[REQUEST.size : body], data[body:whole]


def _send(descriptor: int, header: bytes, payload: bytes) -> None:
    view = memoryview(ANSWER.pack(len(header), len(payload)) + header + payload)
    while view:
        view = view[os.write(descriptor, view) :]


if __name__ == "__main__":
    sys.exit(main())
