"""Two signs of how traffic is, as values in [0, 1] for a drift detector: its rate, its breadth."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

from learners.ids import State

_MINUTE_MS = 60_000
# A longer silence is no more news than this.
_MOST_SILENT = 60
_DAY = 1_440
_LOOKS_BACK = 256
# With fewer events a minute their number says who happens to be there, not how traffic is.
_LEAST_MEAN = 10.0


class Rate:
    """Events a minute of event time, over their mean in a day: c / (c + mean).

    Where there are too few, nothing is returned.
    """

    def __init__(self) -> None:
        self.minute = 0
        self.count = 0
        self.n = 0
        self.mean = 0.0

    def add(self, time_ms: int) -> list[float]:
        """Take an event; return a value for each minute that is over. Time never goes back."""
        minute, values = time_ms // _MINUTE_MS, []
        if minute != self.minute:
            if self.count or self.n:
                for _ in range(min(minute - self.minute, _MOST_SILENT)):
                    value = self._finish()
                    if self.mean >= _LEAST_MEAN:
                        values.append(value)
            self.minute = minute
        self.count += 1
        return values

    @property
    def minute_ends_ms(self) -> int:
        """Return when the minute of the last event is over."""
        return (self.minute + 1) * _MINUTE_MS

    def _finish(self) -> float:
        count, self.count = self.count, 0
        self.n += 1
        self.mean += (count - self.mean) / min(self.n, _DAY)
        return count / (count + self.mean) if count else 0.0

    def state(self) -> State:
        """Return what `load_state` continues from."""
        return {"minute": self.minute, "count": self.count, "n": self.n, "mean": self.mean}

    def load_state(self, state: State) -> None:
        """Become the rate that `state` was taken from; raise ValueError if it is damaged."""
        self.minute, self.count = int(state["minute"]), int(state["count"])
        self.n, self.mean = int(state["n"]), float(state["mean"])
        if self.count < 0 or self.n < 0 or not 0.0 <= self.mean < 1e12:
            raise ValueError("the rate of events is damaged")


class Concentration:
    r"""How often events name an item that the last 256 named, too.

    Its mean is $\sum_i p_i^2 = e^{-H_2}$, where $H_2$ is Rényi's entropy of order 2 of the items:
    a falling entropy is a rising concentration, and this one needs no logarithm.
    """

    def __init__(self) -> None:
        self._last: deque[str] = deque()
        self._counts: dict[str, int] = {}

    def add(self, item_ids: Iterable[str]) -> list[float]:
        """Take the items of events; return the share of each among the last before it."""
        last, counts, shares = self._last, self._counts, []
        for item_id in item_ids:
            count = counts.get(item_id, 0)
            shares.append(count / max(len(last), 1))
            last.append(item_id)
            counts[item_id] = count + 1
            if len(last) > _LOOKS_BACK:
                gone = last.popleft()
                n_left = counts[gone] - 1
                if n_left:
                    counts[gone] = n_left
                else:
                    del counts[gone]
        return shares

    def state(self) -> list[str]:
        """Return what `load_state` continues from."""
        return list(self._last)

    def load_state(self, state: list[str]) -> None:
        """Become the concentration that `state` was taken from."""
        if len(state) > _LOOKS_BACK:
            raise ValueError("the concentration of items is damaged")
        self._last = deque(map(str, state))
        self._counts = dict(Counter(self._last))
