"""Privacy budget gateway: client library and public vocabulary.

    import privacy_gateway as pg
    domain = pg.login(email="…", password="…", url="http://127.0.0.1:8081")
    model, metrics = pg.tff.train_model(model_fn, params, domain, timeout=5000)

Everything is loaded on first use: importing this package must stay far below a second and must
never import NumPy, Keras or the command line.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from privacy_gateway import aio, local, tff
    from privacy_gateway.client import Domain, login
    from privacy_gateway.errors import Refused
    from privacy_gateway.jobs import Job, JobNotCompleted, Quote

__version__ = "0.1.0"
__all__ = ["Domain", "Job", "JobNotCompleted", "Quote", "Refused", "aio", "local", "login", "tff"]

_HOME = {
    "Domain": "client",
    "Job": "jobs",
    "JobNotCompleted": "jobs",
    "Quote": "jobs",
    "Refused": "errors",
    "login": "client",
}
_MODULES = frozenset({"aio", "local", "tff"})


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for (PEP 562)."""
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names, loaded or not."""
    return sorted({*globals(), *__all__})
