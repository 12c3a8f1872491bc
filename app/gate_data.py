"""What the gate remembers, as plain data: clocks, versions, trials, decisions."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from app.events import MAX_TIME_MS

_NO_END = 2**62

GateState = Literal["open", "ask", "hold"]
Mode = Literal["normal", "frozen", "shadow_only"]


class Refusal(Exception):
    """An operator asked for what the gate's state forbids."""


class Losses(NamedTuple):
    """One judged event: each version's loss.

    And whether its item was in the top 10 of champion or anchor; whether it `answers` a slate, with
    an item that champion or shadow has in the top 10, and so has been shown for that.
    """

    champion: float
    shadow: float
    anchor: float
    in_top10: bool
    answers: bool = False


class Quiet(NamedTuple):
    """For how long nothing is due: so many events, or so many of those that are judged, or of those
    that count for promotions; and up to an event time.
    """

    events: int = _NO_END
    judged: int = _NO_END
    paced: int = _NO_END
    until_ms: int = MAX_TIME_MS

    def within(self, other: Quiet) -> Quiet:
        """Return for how long nothing of both is due."""
        return Quiet(*map(min, self, other))


class Rival(NamedTuple):
    """A version that fills a share of the slates by turns with the one served; `name` says why.

    It is one of the challenger's, where `is_challenger`.
    """

    version: int
    share: float
    name: str
    is_challenger: bool = False


@dataclass
class Decision:
    """One act of the gate, with the evidence for it. `cursor` is stamped by the log, not state."""

    number: int
    kind: str
    event: int
    time_ms: int
    asked_by: str
    reason: str
    evidence: dict[str, Any]
    cursor: str = ""


@dataclass
class Version:
    """Where a version's content comes from: the event after which it was what the shadow was."""

    event: int = 0
    time_ms: int = 0


@dataclass
class Trial:
    """Judged differences since something began: a candidate put aside, or ASK.

    `wanted` are the judged events that end it, where that is not the usual number.
    """

    event: int
    time_ms: int
    reason: str = ""
    n: int = 0
    total: float = 0.0
    wanted: int | None = None


class Relearn(NamedTuple):
    """Events that the shadow is to learn again: windows of numbers, but not of some items."""

    windows: list[list[int]]
    without: list[str]
    then_promote: bool = False
    requeued: tuple[Requeued, ...] = ()

    def pieces(self) -> list[tuple[int, int, set[str]]]:
        """Return the windows, cut so that of each piece the same items are left out."""
        cuts = {cut for r in self.requeued if r.without for cut in (r.first, r.last + 1)}
        found: list[tuple[int, int, set[str]]] = []
        for first, last in self.windows:
            starts = [first, *sorted(cut for cut in cuts if first < cut <= last), last + 1]
            for start, after in pairwise(starts):
                inside = (r.without for r in self.requeued if r.first <= start <= r.last)
                found.append((start, after - 1, set(self.without).union(*inside)))
        return found


@dataclass
class Requeued:
    """A window that an operator had learned again at an event, without some items."""

    first: int
    last: int
    event: int
    without: list[str]


@dataclass
class Clock:
    """What the cadences count: admitted and learned events, event time, and of the admitted events
    those that count for promotions.

    That is all of them, which nobody has to say, but where more than `judge_per_s` come in a
    second: about so many of these (since semantics version 12).
    """

    event: int = 0
    learned: int = 0
    time_ms: int = 0
    paced: int = -1

    def __post_init__(self) -> None:
        if self.paced < 0:
            self.paced = self.event


@dataclass
class GateData:
    """Everything of the gate that is plain data."""

    state: GateState = "open"
    mode: Mode = "normal"
    version: int = 0
    has_anchor: bool = False
    is_blessed: bool = False
    n_decisions: int = 0
    n_blessings: int = 0
    promoted: Clock = field(default_factory=Clock)
    put_aside: Clock = field(default_factory=Clock)
    champion: Version = field(default_factory=Version)
    anchor: Version = field(default_factory=Version)
    candidate: Version = field(default_factory=Version)
    candidate_trial: Trial | None = None
    ask_trial: Trial | None = None
    # When harm alarms came, in the last day; what was set aside and not learned again, as windows
    # of event numbers; until when an item may not teach.
    alarms_ms: list[int] = field(default_factory=list)
    set_aside: list[list[int]] = field(default_factory=list)
    suspects: dict[str, int] = field(default_factory=dict)
    # What was requeued since the anchor (since semantics version 10): it is not in the anchor, and
    # what was left out of it then stays out.
    requeued: list[Requeued] = field(default_factory=list)


def load_data(saved: dict[str, Any]) -> GateData:
    """Return the data that `dataclasses.asdict` was taken of."""
    made: dict[str, Any] = dict(saved)
    for name in ("promoted", "put_aside"):
        made[name] = Clock(**saved[name])
    for name in ("champion", "anchor", "candidate"):
        made[name] = Version(**saved[name])
    for name in ("candidate_trial", "ask_trial"):
        made[name] = None if saved[name] is None else Trial(**saved[name])
    made["alarms_ms"] = list(saved["alarms_ms"])
    made["set_aside"] = [list(window) for window in saved["set_aside"]]
    made["suspects"] = dict(saved["suspects"])
    made["requeued"] = [Requeued(**one) for one in saved.get("requeued", ())]
    return GateData(**made)


def remaining(first: int, last: int, aside: list[list[int]]) -> list[list[int]]:
    """Return the window first..last without those that were set aside, as windows in order."""
    windows, at = [], first
    for begin, end in sorted(aside):
        if begin > last or end < at:
            continue
        if begin > at:
            windows.append([at, begin - 1])
        at = max(at, end + 1)
    if at <= last:
        windows.append([at, last])
    return windows


def merge(windows: list[list[int]]) -> list[list[int]]:
    """Return windows that overlap as one, in order."""
    merged: list[list[int]] = []
    for first, last in sorted(windows):
        if merged and first <= merged[-1][1] + 1:
            merged[-1][1] = max(merged[-1][1], last)
        else:
            merged.append([first, last])
    return merged
