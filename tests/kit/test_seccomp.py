"""The filter's program, run by hand: what each machine's kernel would answer."""

from __future__ import annotations

import errno
import struct

import pytest

from kit import seccomp
from kit.seccomp import ALLOW, ERRNO, KILL_PROCESS
from kit.syscalls import MACHINES, numbers
from worker.training import confine

PID = 4711
DENIED = ERRNO | errno.EPERM


def answer(machine: str, number: int, *arguments: int, by: str = "") -> int:
    """What `sandbox_filter` says to a call, by a small interpreter of classic BPF."""
    given = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("=IIQ6Q", number, MACHINES[by or machine], 0, *given)
    accumulator, at = 0, 0
    program = seccomp.compiled(confine.sandbox_filter(PID), machine)
    while True:
        code, if_true, if_false, constant = program[at]
        at += 1
        if code == 0x06:
            return constant
        if code == 0x20:
            accumulator = struct.unpack_from("=I", data, constant)[0]
        elif code == 0x54:
            accumulator &= constant
        elif code in (0x15, 0x35):
            holds = accumulator == constant if code == 0x15 else accumulator >= constant
            at += if_true if holds else if_false
        else:
            raise AssertionError(code)


@pytest.mark.parametrize("machine", MACHINES)
def test_each_kind_of_call_gets_its_answer(machine: str) -> None:
    calls = numbers(machine)
    thread = 0x3D0F00
    expected: list[tuple[tuple[int, ...], int]] = [
        ((calls["read"],), ALLOW),
        ((calls["exit_group"],), ALLOW),
        ((calls["socket"],), DENIED),
        ((calls["kill"], PID), DENIED),
        ((calls["tgkill"], PID), ALLOW),
        ((calls["tgkill"], 1), DENIED),
        ((calls["clone"], thread), ALLOW),
        ((calls["clone"], thread | 0x10000000), DENIED),
        ((calls["clone"], 17), DENIED),
        ((calls["clone3"],), ERRNO | errno.ENOSYS),
        ((calls["openat"], 0, 0, 0o2000000), ALLOW),
        ((calls["openat"], 0, 0, 0o2000001), ERRNO | errno.EACCES),
        ((calls["openat"], 0, 0, 0o2000100), ERRNO | errno.EACCES),
        ((calls["prlimit64"], 0), ALLOW),
        ((calls["prlimit64"], 1), DENIED),
        ((calls["ptrace"],), KILL_PROCESS),
        ((calls["execve"],), KILL_PROCESS),
        ((9999,), DENIED),
    ]
    for (number, *arguments), wanted in expected:
        assert answer(machine, number, *arguments) == wanted, (number, arguments)


def test_numbers_of_another_machine_end_the_process() -> None:
    assert answer("x86_64", 63, by="aarch64") == KILL_PROCESS
    assert answer("aarch64", 0, by="x86_64") == KILL_PROCESS
    assert answer("x86_64", 0x40000000 | 39) == KILL_PROCESS


def test_no_jump_is_too_far_and_everything_ends() -> None:
    for machine in MACHINES:
        for wanted in (confine.sandbox_filter(PID), confine.parent_filter()):
            program = seccomp.compiled(wanted, machine)
            assert len(program) < 4096
            assert program[-1] == (0x06, 0, 0, DENIED)
            for at, (_, if_true, if_false, _) in enumerate(program[:-1]):
                assert max(if_true, if_false) < 256
                assert at + 1 + max(if_true, if_false) < len(program)


def test_every_name_has_a_number_or_is_known_to_be_the_other_machines() -> None:
    known = numbers("x86_64").keys() | numbers("aarch64").keys()
    for wanted in (confine.sandbox_filter(PID), confine.parent_filter()):
        assert {*wanted.allowed, *wanted.deadly, *wanted.conditional, *wanted.failing} <= known


def test_an_unknown_machine_is_no_place_for_a_sandbox() -> None:
    assert numbers("riscv64") == {}
    with pytest.raises(LookupError):
        seccomp.compiled(confine.sandbox_filter(PID), "riscv64")
