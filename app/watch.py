"""All that the gate watches, and when each raises an alarm.

A drift alarm asks: it is cheap to be wrong about. A harm alarm acts. What follows is the gate's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from app.detectors import Drift, EDetector
from app.gate_data import Losses
from app.item_watch import ItemWatch
from app.settings import EngineSettings
from app.traffic import Concentration, Rate
from learners.ids import State
from learners.kernels import F64

LOSS = "loss"
QUARANTINED = "quarantined"
UNKNOWN = "unknown_items"
RATE = "rate"
CONCENTRATION = "concentration"
# Of traffic, a change in one direction means trouble; of its rate, in both.
_SERIES = (LOSS, QUARANTINED, UNKNOWN, RATE, CONCENTRATION)

HARM = ("harm", "harm_outside")
CLICKS = ("clicks_over", "clicks_under")
ITEM = "item"
# Of an alarm's threshold, what a detector of clicks hardly ever exceeds while nothing is wrong.
_CALM = 0.005


class Alarm(NamedTuple):
    """What rang, and its numbers. `acts` where it is a harm alarm; `item_id` where it is of one."""

    detector: str
    evidence: dict[str, Any]
    acts: bool
    item_id: str | None = None


class Watch:
    """Harm, clicks over and under expectation, single items, and drift of loss and traffic."""

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self.harm = {name: EDetector() for name in HARM}
        self.clicks = {name: EDetector() for name in CLICKS}
        # The last event at which each of these was far from an alarm.
        self.calm_at = dict.fromkeys(CLICKS, 0)
        self.items = ItemWatch()
        self.rate = Rate()
        self.concentration = Concentration()
        self._make_drift()

    def _make_drift(self) -> None:
        self.drift = {name: Drift(self._delta(name)) for name in _SERIES}

    def _delta(self, name: str) -> float:
        settings = self.settings
        return settings.adwin_delta if name == LOSS else settings.traffic_delta

    def use(self, settings: EngineSettings) -> None:
        """Go on under other settings; a drift detector of another significance starts anew."""
        self.settings = settings
        for name, drift in self.drift.items():
            if drift.delta != self._delta(name):
                self.drift[name] = Drift(self._delta(name))

    def restart(self) -> None:
        """Let all that compares versions with what comes start anew: what is served has changed."""
        for detectors in (self.harm, self.clicks):
            for name in detectors:
                detectors[name] = EDetector()
        self.items.quiet()
        self.drift[LOSS] = Drift(self._delta(LOSS))

    # -- what comes in ------------------------------------------------------------------------

    def judged(self, losses: Losses) -> Alarm | None:
        """Take one judged event."""
        self.compare(losses)
        return self.compared([losses])

    def compare(self, losses: Losses) -> None:
        """Let the detectors of harm have one judged event: all that does not need an answer."""
        difference, margin = losses.champion - losses.anchor, self.settings.harm_margin
        self.harm["harm"].update(difference, margin)
        if not losses.in_top10:
            self.harm["harm_outside"].update(difference, margin)

    def compared(self, several: Sequence[Losses]) -> Alarm | None:
        """Take judged events that the detectors of harm have had; only after the last may one ring.

        See `n_quiet`.
        """
        settings, [*before, last] = self.settings, [losses.champion for losses in several]
        if before:
            self.drift[LOSS].extend(before)
        for name, detector in self.harm.items():
            if detector.statistic >= settings.harm_alarm:
                return self._harm(name, detector, settings.harm_margin)
        return self._drifted(LOSS, [last])

    def n_quiet(self) -> int:
        """Return after how many judged events an alarm can ring, but for those of `join`."""
        n, settings = self.drift[LOSS].n_unlooked + 1, self.settings
        for detector in self.harm.values():
            n = detector.n_below(settings.harm_alarm, settings.harm_margin, n)
        return n

    def slate(self, items: list[str], expected: F64, clicked: F64, event: int) -> Alarm | None:
        """Take what was expected of a slate's places, and what came of them, by some event.

        A slate counts once, by its mean: who clicks on one place clicks on others, too. The alarm
        of a single item goes before that of all: it says more.
        """
        settings = self.settings
        over, under = self.clicks["clicks_over"], self.clicks["clicks_under"]
        surplus = mean_surplus(expected, clicked)
        over.update(surplus, settings.calibration_margin)
        under.update(-surplus, settings.calibration_margin)
        suspect = self.items.update(
            items,
            expected,
            clicked,
            armed=settings.item_armed,
            margin=settings.item_margin,
            threshold=settings.harm_alarm,
        )
        if suspect is not None:
            numbers = suspect.evidence | {"margin": settings.item_margin}
            return Alarm(ITEM, numbers, acts=True, item_id=suspect.item_id)
        for name, detector in self.clicks.items():
            if detector.statistic < settings.harm_alarm * _CALM:
                self.calm_at[name] = event
            if detector.statistic >= settings.harm_alarm:
                alarm = self._harm(name, detector, settings.calibration_margin)
                return alarm._replace(evidence=alarm.evidence | {"calm_at": self.calm_at[name]})
        return None

    def _harm(self, name: str, detector: EDetector, margin: float) -> Alarm:
        numbers = {"statistic": detector.statistic, "threshold": self.settings.harm_alarm}
        return Alarm(name, numbers | {"margin": margin}, acts=True)

    def admitted(self, item_id: str, time_ms: int, *, is_known: bool) -> Alarm | None:
        """Take an admitted event: was its item known, and what is the time now."""
        rate = None
        for value in self.rate.add(time_ms):
            alarm = self._drifted(RATE, [value])
            rate = rate or alarm
        about = self._about([item_id], [is_known])
        return rate or about

    def _about(self, item_ids: Sequence[str], known: Sequence[bool]) -> Alarm | None:
        unknown = self._drifted(UNKNOWN, [0.0 if is_known else 1.0 for is_known in known])
        concentration = self._drifted(CONCENTRATION, self.concentration.add(item_ids))
        return unknown or concentration

    @property
    def joins_until_ms(self) -> int:
        """Return from which event time on `join` must not be told: that of the next minute."""
        return self.rate.minute_ends_ms

    def join(
        self, item_ids: Sequence[str], known: Sequence[bool]
    ) -> tuple[int, tuple[Alarm | None, Alarm | None] | None]:
        """Do as `decided` and `admitted` for several, up to one by which something rings.

        Return how many come before it, and its alarms.
        """
        drift, begin = self.drift, 0
        series = drift[QUARANTINED], drift[UNKNOWN], drift[CONCENTRATION]
        while begin < len(item_ids):
            end = begin + 1 + min(one.n_unlooked for one in series)
            items = item_ids[begin:end]
            decided = self._drifted(QUARANTINED, [0.0] * len(items))
            self.rate.count += len(items)
            admitted = self._about(items, known[begin:end])
            begin += len(items)
            if decided is not None or admitted is not None:
                return begin - 1, (decided, admitted)
        return begin, None

    def decided(self, *, is_quarantined: bool) -> Alarm | None:
        """Take whether an event was quarantined."""
        return self._drifted(QUARANTINED, [1.0 if is_quarantined else 0.0])

    def _drifted(self, name: str, values: Sequence[float]) -> Alarm | None:
        drift = self.drift[name]
        change = drift.extend(values)
        if change is None:
            return None
        before, after = change
        numbers = {"mean_before": before, "mean_after": after, "delta": drift.delta}
        return Alarm(name, numbers, acts=False)

    # -- state --------------------------------------------------------------------------------

    def view(self, *, is_armed: bool, is_blessed: bool) -> list[dict[str, Any]]:
        """Return each detector's statistic, threshold, and whether it is armed."""
        threshold = self.settings.harm_alarm
        shown = [
            {"name": name, "statistic": d.statistic, "threshold": threshold, "armed": is_armed}
            for name, d in (self.harm | self.clicks).items()
        ]
        worst = float(self.items.m.sum(axis=1).max())
        about = {"statistic": worst, "threshold": threshold, "armed": is_armed}
        shown.append({"name": ITEM, **about, "watched": len(self.items)})
        armed = is_armed and is_blessed
        return shown + [
            {"name": f"adwin_{name}", "statistic": d.mean, "threshold": None, "armed": armed}
            for name, d in self.drift.items()
        ]

    def state(self) -> State:
        """Return what `load_state` continues from."""
        detectors = self.harm | self.clicks
        return {
            "detectors": {name: d.state() for name, d in detectors.items()},
            "calm_at": dict(self.calm_at),
            "drift": {name: d.state() for name, d in self.drift.items()},
            "items": self.items.state(),
            "rate": self.rate.state(),
            "concentration": self.concentration.state(),
        }

    def load_state(self, state: State) -> None:
        """Become the watch that `state` was taken from; raise ValueError if it is damaged."""
        for name, detector in (self.harm | self.clicks).items():
            detector.load_state(state["detectors"][name])
        self.calm_at = {name: int(state["calm_at"][name]) for name in CLICKS}
        for name, drift in self.drift.items():
            drift.load_state(state["drift"][name])
        self.items.load_state(state["items"])
        self.rate.load_state(state["rate"])
        self.concentration.load_state(state["concentration"])


def mean_surplus(expected: F64, clicked: F64) -> float:
    """Return by how much a slate was clicked more than expected, as a mean over its places."""
    surpluses: list[float] = (clicked - expected).tolist()
    return sum(surpluses) / len(surpluses)


def is_bad_news(alarm: Alarm) -> bool:
    """Tell whether a drift alarm is worth asking about: not a loss, or a share, that falls."""
    rose = bool(alarm.evidence["mean_after"] > alarm.evidence["mean_before"])
    return rose or alarm.detector == RATE
