"""What the work of this process costs: CPU seconds by stage.

A stage is charged for what the event loop's thread does in its name, to the clock tick; work in
other threads and in copies of the process is told to it. Requests are many and short, so of these
every few are measured, and count for all. Nothing here changes what is computed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Generator
from types import coroutine
from typing import Any, Final, Literal, TypeVar

T = TypeVar("T")

Stage = Literal["reads", "receiving", "appending", "learning", "snapshots", "other"]

READS: Final = "reads"
RECEIVING: Final = "receiving"
APPENDING: Final = "appending"
LEARNING: Final = "learning"
SNAPSHOTS: Final = "snapshots"
OTHER: Final = "other"

STAGES = ("reads", "receiving", "appending", "judging", "learning", "snapshots", "other")
"""What CPU is shown by. Judging is told apart from learning by samples of both.

`reads`: requests for lists, from their bytes to the answer's; `receiving`: feedback and what else
is posted, until it is handed on, and answering it; `appending`: writing to the log; `learning`:
reading the log and applying it; `snapshots`: with the copies' work; `other`: the rest of the
process, such as the event loop itself, operators' requests and threads.
"""

EVERY = 8
"""Of what is read from connections, one in so many is measured: the clock itself takes 0.3 µs."""

_JUDGED_EVERY = _STEPS_EVERY = 32
# As if so many seconds had been seen at even shares, so that the first sample is not all.
_PRIOR_S = 1e-4


class Meter:
    """Charges CPU to stages. `cpu` is the thread's clock, `process_cpu` that of all threads.

    That takes ten times as long to ask as the time of day (`clock`), by which steps are measured;
    how much of it is CPU, and not the wait for a core, is measured now and then.
    """

    def __init__(
        self,
        cpu: Callable[[], float] = time.thread_time,
        process_cpu: Callable[[], float] = time.process_time,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.n_received = self.n_applied = 0
        self._cpu = cpu
        self._clock = clock
        self._process_cpu = process_cpu
        self._steps_chosen, self._busy = _Chosen(_STEPS_EVERY), _Share(1.0)
        self._seconds: dict[Stage, float] = dict.fromkeys(
            (READS, RECEIVING, APPENDING, LEARNING, SNAPSHOTS, OTHER), 0.0
        )
        self._copies_s = 0.0
        self._stage: Stage = OTHER
        self._since = clock()
        self._reads, self._records = _Chosen(EVERY), _Chosen(_JUDGED_EVERY)
        self._judging = _Share(0.5)
        self._shown = dict.fromkeys(STAGES, 0.0)
        self._split_at = 0.0

    # -- charging -----------------------------------------------------------------------------

    async def timed(self, stage: Stage, work: Coroutine[Any, Any, T]) -> T:
        """Do some work, and charge a stage for the CPU of each of its steps.

        What it does in the name of another stage, by `timed` in turn, is charged to that alone.
        """
        return await self._steps(stage, work)

    @coroutine
    def _steps(self, stage: Stage, work: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
        resume: Callable[[Any], Any] = work.send
        value: Any = None
        while True:
            began = (self._cpu(), self._clock()) if self._steps_chosen.next() else None
            before = self._switch(stage)
            try:
                waits_for = resume(value)
            except StopIteration as end:
                result: T = end.value
                return result
            finally:
                self._switch(before)
                if began is not None:
                    self._busy.add(self._cpu() - began[0], self._clock() - began[1])
            try:
                value, resume = (yield waits_for), work.send
            except GeneratorExit:
                work.close()
                raise
            except BaseException as error:
                value, resume = error, work.throw

    def _switch(self, stage: Stage) -> Stage:
        """Charge what was done since the last switch; return for which stage that was."""
        now, before = self._clock(), self._stage
        self._seconds[before] += (now - self._since) * self._busy.value
        self._since, self._stage = now, stage
        return before

    async def in_thread(self, stage: Stage, work: Callable[[], T]) -> T:
        """Do some work in a thread of its own, and charge a stage for it."""

        def measured() -> tuple[T, float]:
            began = self._cpu()
            return work(), self._cpu() - began

        result, seconds = await asyncio.to_thread(measured)
        self._seconds[stage] += seconds
        return result

    def begin_read(self) -> float | None:
        """Return when something that was read began to be worked on, if it is to be measured."""
        return self._cpu() if self._reads.next() else None

    def end_read(self, stage: Stage, began: float) -> None:
        """Charge a stage for what was read, and for those like it that were not measured."""
        self._seconds[stage] += EVERY * (self._cpu() - began)

    def note_copy(self, seconds: float) -> None:
        """Charge snapshots for what a copy of this process took, user and system."""
        self._copies_s += seconds

    # -- judging and learning -----------------------------------------------------------------

    def is_sampled(self) -> bool:
        """Tell whether the next record is to be applied by `sample`."""
        return self._records.next()

    def sample(self, step: Callable[[], object], watch: Callable[[Mark | None], None]) -> None:
        """Apply one record; `watch` lets a function be called as judging begins and as it ends.

        Raises whatever `step` raises.
        """
        marks: list[float] = []
        watch(lambda: marks.append(self._cpu()))
        began = self._cpu()
        try:
            step()
        finally:
            watch(None)
            judged = marks[1] - marks[0] if len(marks) > 1 else 0.0
            self._judging.add(judged, self._cpu() - began)

    @property
    def judging_share(self) -> float:
        """Return what share of applying events is judging them, of late."""
        return self._judging.value

    # -- what it came to ----------------------------------------------------------------------

    def learning_s(self) -> float:
        """Return the CPU seconds of learning and judging so far."""
        return self._now(LEARNING)

    def receiving_s(self) -> float:
        """Return the CPU seconds of receiving and appending so far."""
        return self._now(RECEIVING) + self._now(APPENDING)

    def _now(self, stage: Stage) -> float:
        """Return a stage's seconds, with those that go on."""
        running = self._clock() - self._since if self._stage == stage else 0.0
        return self._seconds[stage] + running * self._busy.value

    def seconds(self) -> dict[str, float]:
        """Return the CPU seconds by stage since the start; none of them ever goes down."""
        self._switch(self._stage)
        known, shown = self._seconds, self._shown
        for stage in (READS, RECEIVING, APPENDING):
            shown[stage] = known[stage]
        shown[SNAPSHOTS] = known[SNAPSHOTS] + self._copies_s
        new, self._split_at = known[LEARNING] - self._split_at, known[LEARNING]
        shown["judging"] += new * self._judging.value
        shown[LEARNING] += new * (1.0 - self._judging.value)
        charged = sum(seconds for stage, seconds in known.items() if stage != OTHER)
        # What is measured now and then is only right on average.
        shown[OTHER] = max(shown[OTHER], self._process_cpu() - charged)
        return dict(shown)


Mark = Callable[[], None]


class _Chosen:
    """Chooses one in so many, evenly also among every second, third, ... of them.

    So two kinds that come by turns are both measured. Multiples of the golden ratio do that.
    """

    def __init__(self, every: int) -> None:
        self._place = 0
        self._below = 2**32 // every

    def next(self) -> bool:
        self._place = (self._place + 2_654_435_769) & 0xFFFFFFFF
        return self._place < self._below


class _Share:
    """A share of two durations; what was added long ago counts for less and less."""

    _KEEPS = 1 - 1 / 256

    def __init__(self, prior: float) -> None:
        self._part, self._whole = _PRIOR_S * prior, _PRIOR_S
        self.value = prior

    def add(self, part: float, whole: float) -> None:
        self._part = self._part * self._KEEPS + part
        self._whole = self._whole * self._KEEPS + whole
        self.value = self._part / self._whole
