"""What the service answers, typed. Fields that a newer service adds are passed over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Reason:
    """A part of a score: an item of the history, or a part of the model."""

    because: str
    weight: float


@dataclass(frozen=True, slots=True)
class Item:
    """One place of a list; `why` only where it was asked for."""

    item_id: str
    position: int
    score: float
    propensity: float
    sources: tuple[str, ...]
    why: tuple[Reason, ...] | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """Which model answered."""

    version: int
    cursor: str
    gate: str
    mode: str


@dataclass(frozen=True, slots=True)
class ItemList:
    """A list that is about no user; `degraded` says why it is not as good as it could be."""

    items: tuple[Item, ...]
    model: Model
    degraded: str | None


@dataclass(frozen=True, slots=True)
class Slate(ItemList):
    """A list for somebody. Send `recommendation_id` back with feedback on its items."""

    recommendation_id: str
    user_id: str | None


@dataclass(frozen=True, slots=True)
class Merge:
    """What a merge did; `merged` is false where nothing was known of the id."""

    merged: bool
    cursor: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one event.

    `status`: learned, duplicate, late, quarantined or accepted, as the service says it; `failed`:
    refused by the service, with its reason; `unsent`: the client was closed first. An event that is
    learned, a duplicate or accepted is acknowledged: it is, or will be, learned exactly once.
    """

    event_id: str
    status: str
    reason: str | None = None

    @property
    def is_acknowledged(self) -> bool:
        """Tell whether the service has the event for good."""
        return self.status in ("learned", "duplicate", "accepted")


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the events tracked so far: waiting, dropped, or answered, by outcome."""

    waiting: int
    dropped: int
    outcomes: Mapping[str, int]


def item_list(content: Mapping[str, Any]) -> ItemList:
    """Read a list that is about no user."""
    return ItemList(_items(content), _model(content), content["degraded"])


def slate(content: Mapping[str, Any]) -> Slate:
    """Read a list for somebody."""
    return Slate(
        _items(content),
        _model(content),
        content["degraded"],
        content["recommendation_id"],
        content["user_id"],
    )


def merge(content: Mapping[str, Any]) -> Merge:
    """Read the answer to a merge."""
    return Merge(content["merged"], content["cursor"])


def outcomes(content: Mapping[str, Any]) -> list[Outcome]:
    """Read the answer to feedback, in the order of the events."""
    return [Outcome(r["event_id"], r["status"], r["reason"]) for r in content["results"]]


def _items(content: Mapping[str, Any]) -> tuple[Item, ...]:
    return tuple(map(_item, content["items"]))


def _item(raw: Mapping[str, Any]) -> Item:
    why = raw.get("why")
    return Item(
        raw["item_id"],
        raw["position"],
        raw["score"],
        raw["propensity"],
        tuple(raw["sources"]),
        None if why is None else tuple(Reason(part["because"], part["weight"]) for part in why),
    )


def _model(content: Mapping[str, Any]) -> Model:
    raw = content["model"]
    return Model(raw["version"], raw["cursor"], raw["gate"], raw["mode"])
