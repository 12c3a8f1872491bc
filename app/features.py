"""What features may be declared, and what a value means to a combiner: a number, or no answer.

A feature is computed elsewhere. One of the context comes with a request and its events, one of a
user or an item is kept until it changes. Nothing that a client sends for one is an error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal, NamedTuple, Self
from urllib.parse import urlsplit

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from learners.kernels import F64

MAX_FEATURES, MAX_INPUTS = 16, 64
NAME = r"^[A-Za-z0-9_.:-]{1,64}$"

Value = str | int | float | bool | None
Values = Mapping[str, Value]
NOTHING: Values = MappingProxyType({})
Of = Literal["context", "user", "item"]
Why = Literal["missing", "stale", "unknown", "not_a_number", "timeout", "unavailable"]
"""Why a feature is not there. `unknown`: none of the values that were declared."""
Unread = Mapping[str, Why]
"""Why features of a store are not there, by name; of those that it does not have, nothing."""
ALL_READ: Unread = MappingProxyType({})


class Meant(NamedTuple):
    """What a value says: the number of one of its feature's inputs; of the others it is 0."""

    place: int
    number: float


class Feature(BaseModel):
    """One feature: of its `values` each is an input of its own, or it is a number between bounds.

    A number is scaled to -1 to 1; one past a bound counts as the bound.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    of: Of
    values: tuple[Annotated[str, StringConstraints(min_length=1, max_length=64)], ...] = ()
    min: float | None = Field(None, allow_inf_nan=False)
    max: float | None = Field(None, allow_inf_nan=False)
    max_age_s: int | None = Field(None, ge=1, le=10**9)

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        bounds = [bound for bound in (self.min, self.max) if bound is not None]
        if bool(self.values) == bool(bounds) or len(bounds) == 1:
            raise ValueError("it needs either values, or min and max")
        if len(set(self.values)) < len(self.values):
            raise ValueError("one of its values is there twice")
        if bounds and not 0 < bounds[1] - bounds[0] < math.inf:
            raise ValueError("min must be below max")
        if self.max_age_s is not None and self.of != "user":
            raise ValueError("max_age_s is for features of users alone")
        return self

    @property
    def n_inputs(self) -> int:
        """Return how many inputs it has."""
        return len(self.values) or 1

    def keep(self, value: Value) -> float | Why:
        """Return a value as it is kept (the place of one of `values`, or a number), or why not."""
        if value is None:
            return "missing"
        if self.values:
            text = text_of(value)
            return float(self.values.index(text)) if text in self.values else "unknown"
        try:
            number = float(value)
        except (ValueError, OverflowError):
            return "not_a_number"
        low, high = self._bounds
        return "not_a_number" if math.isnan(number) else min(max(number, low), high)

    def taken(self, kept: F64, before: Feature) -> F64:
        """Return what was kept by another declaration as this one keeps it; NaN for nothing."""
        if self.values and before.values:
            places = [self.keep(value) for value in before.values]
            known = [math.nan if isinstance(place, str) else place for place in places]
            return np.array(known)[kept.astype(np.int64)]
        if self.values or before.values:
            return np.full(len(kept), math.nan)
        return np.clip(kept, *self._bounds)

    def meaning(self, kept: float) -> Meant:
        """Return what a value that is kept means."""
        if self.values:
            return Meant(int(kept), 1.0)
        low, high = self._bounds
        return Meant(0, 2.0 * ((kept - low) / (high - low)) - 1.0)

    def shown(self, kept: float) -> Value:
        """Return a value that is kept as it was given, but for one past a bound."""
        return self.values[int(kept)] if self.values else kept

    @property
    def _bounds(self) -> tuple[float, float]:
        return self.min or 0.0, self.max or 0.0


Features = Annotated[
    dict[Annotated[str, StringConstraints(pattern=NAME)], Feature],
    Field(max_length=MAX_FEATURES),
]


FEAST = ("feast+http://", "feast+https://")
_STORES = ("redis://", "rediss://", "unix://", *FEAST)


def check_feature_store_url(url: str) -> None:
    """Raise ValueError where a URL is of no store that features can be read from."""
    if not url.startswith(_STORES):
        raise ValueError(f"feature_store_url must begin with one of {', '.join(_STORES)}")
    if url.startswith(FEAST) and not urlsplit(url).path.strip("/"):
        raise ValueError("feature_store_url: name a feature service: feast+http://HOST:PORT/NAME")


def text_of(value: str | float) -> str:
    """Return a value as a declaration writes it: true, 3, mobile."""
    if isinstance(value, bool):
        return "true" if value else "false"
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if whole else value)


def inputs_of(features: Mapping[str, Feature], *of: Of) -> tuple[str, ...]:
    """Return the names of the inputs of context, users or items, by the names of the features.

    `context:device=mobile` for each value, `user:age` for a number.
    """
    return tuple(
        f"{feature.of}:{name}{ending}"
        for name, feature in sorted(features.items())
        if feature.of in of
        for ending in ([f"={value}" for value in feature.values] or [""])
    )


def check_inputs(features: Mapping[str, Feature]) -> None:
    """Raise ValueError where they have more inputs than there may be."""
    n = sum(feature.n_inputs for feature in features.values())
    if n > MAX_INPUTS:
        raise ValueError(f"features: they have {n} inputs, counting values; {MAX_INPUTS} may be")
