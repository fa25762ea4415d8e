"""What a validation found, in the words of a request: JSON members, not Python classes.

Pydantic names a fault's place by the branches of its own unions and its kind by Python's types; a
researcher knows only the body she sent. Nothing here may leave a fault out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import ValidationError

from privacy_gateway.errors import FieldError, Refused
from privacy_gateway.modelspec import LAYER_NAMES

_OBJECT, _ARRAY = "must be a JSON object", "must be a JSON array"
_TIME = "must be an RFC 3339 time, such as 2026-11-22T12:00:00Z"
_SAID: Final[dict[str, str]] = {
    "missing": "is missing",
    "extra_forbidden": "is not a member of what is asked here",
    "model_type": _OBJECT,
    "model_attributes_type": _OBJECT,
    "dict_type": _OBJECT,
    "list_type": _ARRAY,
    "tuple_type": _ARRAY,
    "too_short": "must have at least {min_length} members, not {actual_length}",
    "too_long": "must have at most {max_length} members",
    "datetime_type": _TIME,
    "datetime_parsing": _TIME,
    "datetime_from_date_parsing": _TIME,
    "datetime_object_invalid": _TIME,
    "timezone_aware": "must tell its offset from UTC, as in 2026-11-22T12:00:00Z",
}
_BRANCH = re.compile(r"constrained-\w+|literal\[.*\]|JobRequest")
"""Names that pydantic gives to the branches of unions; none is a member of any body."""


def refusal_of(error: ValidationError) -> Refused:
    """The typed refusal that says what pydantic found, field by field."""
    return refusal(error.errors(include_url=False))


def refusal(found: Iterable[Any]) -> Refused:
    """The same of pydantic's list of faults."""
    faults = _merged(list(found))
    code = "invalid_request"
    if all(fault.field.startswith(("model.architecture", "job.model.")) for fault in faults):
        code = "model_refused"
    return Refused(code, _sentence(faults), errors=faults)


def message_of(fault: Mapping[str, Any]) -> str:
    """One fault as a sentence about JSON."""
    said = _SAID.get(fault["type"])
    return str(fault["msg"]) if said is None else said.format_map(fault.get("ctx") or {})


def _sentence(faults: Iterable[FieldError]) -> str:
    """Every fault, those of one kind together: `a, b: is missing; c: must be a JSON array`."""
    fields: dict[str, list[str]] = {}
    for fault in faults:
        fields.setdefault(fault.message, []).append(fault.field)
    return "; ".join(f"{', '.join(names)}: {message}" for message, names in fields.items())


def _merged(found: list[Any]) -> list[FieldError]:
    """One fault for each field: what every branch of a union asks for is joined by "or"."""
    fields = [_path(fault["loc"]) for fault in found]
    faults: dict[str, FieldError] = {}
    for field, fault in zip(fields, found, strict=True):
        if _of_a_branch(fault) and any(other.startswith(f"{field}.") for other in fields):
            continue  # the branch that fits better is told, member by member
        message = message_of(fault)
        if field in faults and faults[field].message != message:
            message = f"{faults[field].message}, or: {message}"
        faults[field] = FieldError(field, message, _shown(fault.get("input")))
    return list(faults.values())


def _of_a_branch(fault: Mapping[str, Any]) -> bool:
    return bool(fault["loc"]) and _BRANCH.fullmatch(str(fault["loc"][-1])) is not None


def _shown(value: Any) -> str | int | float | bool | None:
    if isinstance(value, str):
        return value[:80]
    return value if isinstance(value, bool | int | float) else None


def _path(location: tuple[int | str, ...]) -> str:
    """`('model', 'layers', 3, 'units')` → `model.layers[3].units`."""
    text = ""
    for part in location:
        # The tag of the layer union is pydantic's, not the request's.
        if isinstance(part, int):
            text += f"[{part}]"
        elif part not in LAYER_NAMES and not _BRANCH.fullmatch(part):
            text += f".{part}"
    return text.removeprefix(".") or "body"
