"""What this machine lacks to lock up a process: asked by who starts one, and by `doctor`."""

from kit import landlock, seccomp


def lacking() -> tuple[str, ...]:
    """Names of the missing kernel features; empty where the sandbox can be closed."""
    found = {"Landlock": landlock.abi() > 0, "seccomp": seccomp.available()}
    return tuple(name for name, there in found.items() if not there)
