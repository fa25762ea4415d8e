"""An attacker inside the sandbox gets nothing: every probe runs behind the real walls.

Each probe is a fresh child with TensorFlow imported, forked as in production, whose conversation is
replaced by `tests.worker.prober`. Denied is an error of the kernel or the end of the process.
"""

from __future__ import annotations

import os
import platform
import socket
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.worker import prober
from worker import start
from worker.frames import Channel, PeerGone
from worker.start import Ends, Execute, Start
from worker.training import confine
from worker.training.confine import Bounds
from worker.zygote import Zygote

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the probes know x86-64's numbers"),
]

BOUNDS = Bounds(memory_bytes=3 << 30, cpu_seconds=60, file_bytes=1 << 20, tasks=10_000)
ENDED = "ended"


@dataclass
class Attack:
    """Runs one probe in a child of its own."""

    way: Start
    folder: Path

    def __call__(self, kind: str, value: Any, bounds: Bounds = BOUNDS) -> Any:
        """What the probe told, or `ended`."""
        (their_read, our_write), (our_read, their_write) = os.pipe(), os.pipe()
        with (self.folder / "log").open("ab") as log:
            ends = Ends(their_read, their_write, log.fileno())
            child, _ = self.way(bounds, ends, deadline=time.monotonic() + 120)
        for end in (their_read, their_write):
            os.close(end)
        try:
            channel = Channel(our_read, our_write, max_bytes=1 << 20)
            for end in (our_read, our_write):
                os.set_blocking(end, False)
            deadline = time.monotonic() + 60
            channel.send({"kind": kind, "value": value}, deadline=deadline)
            header, _ = channel.receive(deadline=deadline)
            return header["told"]
        except PeerGone:
            return ENDED
        finally:
            for end in (our_read, our_write):
                os.close(end)
            child.kill()
            child.wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("probes")


@pytest.fixture(scope="module")
def attack(folder: Path) -> Iterator[Attack]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", "postgresql://owner:secret@db/ledger")
        patch.setattr(start, "PROGRAM", "tests.worker.prober")
        parent = Zygote(log_path=folder / "parent.log")
        # A descriptor that a careless worker left inheritable must not arrive.
        secret = os.open("/etc/passwd", os.O_RDONLY)
        os.set_inheritable(secret, True)
        try:
            yield Attack(parent, folder)
        finally:
            os.close(secret)
            parent.close()


@pytest.fixture(scope="module")
def victim(folder: Path) -> Path:
    """A file of the state directory that everybody may read and write."""
    state = folder / "state"
    state.mkdir(mode=0o777)
    path = state / "gateway.sqlite3"
    path.write_bytes(b"ledger")
    path.chmod(0o666)
    return path


def denied(told: Any) -> bool:
    """A refusal of the kernel (and not for a mistake of the probe), or the end."""
    allowed = ("EPERM", "EACCES", "ENOSYS", "memory", "EMFILE", "EFBIG", "ENOMEM", "threads,")
    words = str(told).removeprefix("refused: ").split()
    return told == ENDED or (str(told).startswith("refused: ") and words[0] in allowed)


def test_the_probes_would_work_without_walls(victim: Path) -> None:
    """Else their failing would say nothing."""
    assert prober.read("/etc/passwd") == 1
    assert prober.list_(str(victim.parent)) == 1
    for family in (socket.AF_INET, socket.AF_UNIX, socket.AF_NETLINK):
        os.close(prober.open_socket([family, socket.SOCK_DGRAM]))
    for how in ("probe", "pidfd", "limits", "environment", "descriptors"):
        prober.other([how, os.getpid()])
    for how in ("append", "read_write", "times", "mode"):
        prober.change([how, str(victim)])
    for name in ("inotify_init1", "personality"):
        assert prober.call(name) >= 0


@pytest.mark.parametrize("name", sorted(prober.CALLS))
def test_a_call_that_training_needs_not_is_denied(attack: Attack, name: str) -> None:
    assert denied(told := attack("call", name)), told


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd", "/etc/shadow", "/etc/hostname", "/etc/resolv.conf", "/proc/1/environ",
        "/proc/self/environ", "/proc/self/mem", "/proc/self/maps", "/proc/version", "/proc/net/tcp",
        "/proc/self/mountinfo", "/dev/null", "/dev/zero", "/dev/kmsg", "/sys/kernel/notes",
    ],
)  # fmt: skip
def test_no_file_of_the_machine_can_be_read(attack: Attack, path: str) -> None:
    if not Path(path).exists():
        pytest.skip(f"no {path} here")
    assert denied(told := attack("read", path)), told


@pytest.mark.parametrize("path", ["/", "/etc", "/home", "/root", "/tmp", "/proc", "/proc/self/fd"])
def test_no_folder_can_be_listed(attack: Attack, path: str) -> None:
    assert denied(told := attack("list", path)), told


def test_nothing_of_the_state_directory_nor_of_the_project_can_be_read(
    attack: Attack, victim: Path
) -> None:
    assert denied(attack("read", str(victim)))
    assert denied(attack("list", str(victim.parent)))
    assert denied(attack("read", str(Path(prober.__file__).parents[2] / "pyproject.toml")))
    # What it must be able to read: its own packages, and no room beside them.
    assert attack("read", confine.__file__) == 1
    rooms = Path(confine.__file__).parents[2]
    for room in ("accounting", "jobs", "gateway"):
        assert denied(attack("list", str(rooms / room)))


@pytest.mark.parametrize(
    "how",
    [
        "append", "read_write", "create", "temporary", "truncate", "remove", "rename", "link",
        "symlink", "folder", "fifo", "mode", "owner", "times", "attribute",
    ],
)  # fmt: skip
def test_nothing_can_be_written(attack: Attack, victim: Path, how: str) -> None:
    before = victim.stat()
    assert denied(told := attack("change", [how, str(victim)])), told
    after = victim.stat()
    assert (after.st_mode, after.st_mtime_ns, after.st_nlink) == (
        before.st_mode, before.st_mtime_ns, before.st_nlink,
    )  # fmt: skip
    assert victim.read_bytes() == b"ledger"
    assert [path.name for path in victim.parent.iterdir()] == [victim.name]


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW])
@pytest.mark.parametrize("family", [1, 2, 10, 16, 17, 38, 40])
def test_there_is_no_socket_of_any_family(attack: Attack, family: int, kind: int) -> None:
    assert denied(told := attack("socket", [family, int(kind)])), told


def test_a_server_on_the_same_machine_is_out_of_reach(attack: Attack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert denied(told := attack("connect", server.getsockname()[1])), told


@pytest.mark.parametrize("name", sorted(prober.NAMESPACES))
def test_there_is_no_new_namespace(attack: Attack, name: str) -> None:
    assert denied(attack("unshare", name))
    thread = 0x10000 | 0x800 | 0x100
    if name != "time":  # by this call it would be a signal number
        assert denied(attack("clone", prober.NAMESPACES[name] | 17))
        assert denied(attack("clone", prober.NAMESPACES[name] | thread))


@pytest.mark.parametrize("how", ["fork", "execve", "execve_interpreter", "spawn"])
def test_there_is_no_other_process(attack: Attack, how: str) -> None:
    assert denied(told := attack("process", how)), told
    assert denied(attack("clone", 17))


@pytest.mark.parametrize(
    "how",
    [
        "kill", "probe", "tgkill", "tkill", "sigqueue", "attach", "read_memory", "write_memory",
        "pidfd", "limits", "memory_file", "environment", "command", "descriptors", "own_signal",
    ],
)  # fmt: skip
def test_no_other_process_can_be_touched(attack: Attack, how: str) -> None:
    """This process (the worker), the parent of sandboxes, the first process, everybody."""
    assert isinstance(attack.way, Zygote)
    attack.way.start()
    targets = [os.getpid(), attack.way.pid, 1]
    if how in ("kill", "probe"):
        targets += [0, -1]
    for pid in targets:
        assert denied(told := attack("other", [how, pid])), (pid, told)


@pytest.mark.parametrize("name", ["RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_NOFILE"])
def test_no_limit_can_be_raised(attack: Attack, name: str) -> None:
    assert denied(told := attack("raise_limit", name)), told


@pytest.mark.parametrize("kind", ["memory", "map", "threads", "descriptors"])
def test_a_bomb_meets_a_limit(attack: Attack, kind: str) -> None:
    assert denied(told := attack("bomb", kind)), told


def test_time_and_log_are_limited(attack: Attack, folder: Path) -> None:
    small = Bounds(memory_bytes=3 << 30, cpu_seconds=1, file_bytes=100_000, tasks=10_000)
    assert attack("bomb", "processor", small) == ENDED
    assert denied(attack("bomb", "log", small))
    assert (folder / "log").stat().st_size <= 100_000


def test_nothing_is_inherited(attack: Attack) -> None:
    found = attack("look", "environment")
    assert not set(found) & {"DATABASE_URL", "PATH", "PYTEST_CURRENT_TEST"}
    assert "secret" not in str(found)
    fifo, log, null = stat.S_IFIFO, stat.S_IFREG, stat.S_IFCHR
    seen = {int(fd): kind for fd, kind in attack("look", "descriptors").items()}
    # Its two pipe ends, the log, and the held name of its own command line.
    assert {fd: seen[fd] for fd in range(5)} == {0: null, 1: log, 2: log, 3: fifo, 4: fifo}
    assert len(seen) <= 6
    assert attack("look", "life") == {"threads": 1, "modules": True}


@pytest.fixture
def bubblewrap(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Namespaces that also hold the prober; a skip where there are none."""
    here = Path(prober.__file__).parent
    real = confine.readable()
    start.wrapping.cache_clear()
    monkeypatch.setattr(confine, "readable", lambda: [*real, here])
    if not start.wrapping():
        pytest.skip("bubblewrap does not work here")
    monkeypatch.setattr(start, "PROGRAM", "tests.worker.prober")
    yield
    start.wrapping.cache_clear()


def test_an_executed_sandbox_is_as_closed_as_a_forked_one(
    folder: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "PROGRAM", "tests.worker.prober")
    attack = Attack(Execute(), folder)
    assert attack("look", "life") == {"threads": 1, "modules": True}
    probes: list[tuple[str, Any]] = [
        ("read", str(victim)),
        ("change", ["append", str(victim)]),
        ("socket", [2, 1]),
        ("other", ["kill", os.getpid()]),
    ]
    for kind, value in probes:
        assert denied(told := attack(kind, value)), (kind, value, told)


def test_under_bubblewrap_not_even_the_names_of_files_are_there(
    folder: Path, victim: Path, bubblewrap: None
) -> None:
    """Landlock hides contents; without namespaces a path can still be asked whether it exists."""
    parent = Zygote(log_path=folder / "parent.log", bubblewrap=True)
    attack = Attack(parent, folder)
    try:
        assert attack("look", "life") == {"threads": 1, "modules": True}
        assert attack("read", str(victim)) == "refused: ENOENT"
        assert denied(attack("other", ["kill", os.getpid()]))
    finally:
        parent.close()
