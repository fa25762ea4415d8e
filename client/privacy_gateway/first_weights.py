"""What a job begins with, in a request.

A part of `privacy_gateway.schemas`. It names weights and must never carry them.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

_Identifier = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9_.:-]+$")]


def absent(value: object) -> bool:
    """Left out when written, so that a request without it keeps the digest it always had."""
    return value is None


class Initial(BaseModel):
    """What a job begins with; an evaluation measures it.

    Either `job`, an earlier one whose released model its researcher may have (`round`: the last one
    released), or `weights`, an upload (`POST /v1/weights`), which is evaluated on public test
    records alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    job: _Identifier | None = Field(default=None, exclude_if=absent)
    round: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(default=None, exclude_if=absent)
    weights: _Identifier | None = Field(default=None, exclude_if=absent)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.job is None) == (self.weights is None):
            raise PydanticCustomError("initial", "names either a `job` or uploaded `weights`")
        if self.round is not None and self.job is None:
            raise PydanticCustomError("initial", "a `round` belongs to a `job`")
        return self
