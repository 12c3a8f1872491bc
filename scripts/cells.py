"""The cells of `sluice freshness`: one engine each, from the same beginning, under other delays.

The first part of the stream is learned live, once; every cell goes on from there in a process of
its own, and is kept in a file, so that what was interrupted goes on where it was.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.context import ForkContext, ForkProcess
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import orjson
from numpy.typing import NDArray

from app.engine import Engine
from app.errors import Conflict, CopyFailed
from app.events import Configure, Entry, Feedback
from app.recommend import Request
from app.settings import SEMANTICS, Delay, EngineSettings
from learners.ids import PackedRows

WARM_SHARE = 0.2
"""Of the stream, what is learned before anything is judged, as in the founding measurement."""
LIST_K = 10
_SAMPLES = 2_000
_STEP = 500

DELAYS: tuple[Delay, ...] = (0, 10, 60, 600, 3_600, 86_400, "never")
_TIERS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("per_event", {}),
    ("micro_batch 10 s", {"freshness": "micro_batch"}),
    ("micro_batch 1 min", {"freshness": "micro_batch", "personal": 60, "shared": 60}),
    ("micro_batch 10 min", {"freshness": "micro_batch", "personal": 600, "shared": 600}),
    ("two_tier 10 min", {"freshness": "two_tier"}),
    ("two_tier 1 h", {"freshness": "two_tier", "shared": 3_600}),
    ("batch", {"freshness": "batch"}),
    ("frozen", {"freshness": "frozen"}),
)


@dataclass(frozen=True)
class Cell:
    """One run. `kind` is what is late in it (nothing, for a tier); a tier has the gate on."""

    name: str
    kind: str
    personal: Delay | None = None
    shared: Delay | None = None
    freshness: str = "micro_batch"

    @property
    def is_tier(self) -> bool:
        """Tell whether it is a tier as the service would run it, and no pure delay."""
        return self.kind == "tier"

    def settings(self, base: EngineSettings) -> EngineSettings:
        """Return the engine's settings of this cell."""
        changes = {
            "freshness": self.freshness,
            "freshness_personal_s": self.personal,
            "freshness_shared_s": self.shared,
        }
        return EngineSettings(**(base.model_dump() | changes))


def grid(delays: tuple[Delay, ...] = DELAYS) -> list[Cell]:
    """Return the cells of pure delays: nothing late, then shared, personal, and both."""
    cells = [Cell("live", "live", 0, 0)]
    for delay in delays:
        if delay != 0:
            cells.append(Cell(f"shared {shown(delay)}", "shared", 0, delay))
            cells.append(Cell(f"personal {shown(delay)}", "personal", delay, 0))
            cells.append(Cell(f"both {shown(delay)}", "both", delay, delay))
    return cells


def tiers() -> list[Cell]:
    """Return the cells of the tiers."""
    return [Cell(name, "tier", **({"freshness": name} | changes)) for name, changes in _TIERS]


def shown(delay: Delay) -> str:
    """Return a delay for people."""
    if delay == "never":
        return "never"
    for unit, seconds in (("day", 86_400), ("h", 3_600), ("min", 60)):
        if delay and delay % seconds == 0:
            return f"{delay // seconds} {unit}"
    return f"{delay} s" if delay else "live"


class Run(NamedTuple):
    """What came of a cell.

    `place` of each judged event in the stream, twice its `rank` in what would have been served
    (-1: none), its `reward`; `lists`, for some requests, the items shown (numbers of `hash`, 0 for
    none); `facts`: CPU seconds, counts, bytes.
    """

    place: NDArray[np.int32]
    rank: NDArray[np.int32]
    reward: NDArray[np.float32]
    lists: NDArray[np.uint64]
    facts: dict[str, Any]


class Lab:
    """Runs cells over one stream, in forked processes, and keeps what came of each in a folder."""

    def __init__(
        self, stream: list[Feedback], digest: str, settings: EngineSettings, folder: Path
    ) -> None:
        self.stream = stream
        self.n_warm = round(len(stream) * WARM_SHARE)
        # What is judged, and when delays begin, must not hang on what a service has set.
        warmup = min(settings.warmup_events, max(1, self.n_warm // 4))
        base = settings.model_dump() | {
            "judge_share": 1.0,
            "judge_per_s": 0,
            "warmup_events": warmup,
            "freshness": "per_event",
            "freshness_personal_s": None,
            "freshness_shared_s": None,
            "tokens": "off",
        }
        self.base = {
            gate: EngineSettings(**(base | {"gate": gate, "challenger": {}}))
            for gate in ("on", "off")
        }
        self._digest = digest
        self._folder = folder

    def path(self, cell: Cell) -> Path:
        """Return where a cell is kept: the name says which data and settings it is of."""
        base = self.base["on" if cell.is_tier else "off"]
        about = [self._digest, SEMANTICS, WARM_SHARE, LIST_K, _SAMPLES]
        text = orjson.dumps([about, cell.settings(base).model_dump(mode="json")])
        return self._folder / f"{hashlib.sha256(text).hexdigest()[:24]}.npz"

    def missing(self, cells: list[Cell]) -> list[Cell]:
        """Return the cells that are still to be run."""
        return [cell for cell in cells if not self.path(cell).is_file()]

    def run(self, cells: list[Cell], n_jobs: int, on_progress: Callable[[int, int], None]) -> None:
        """Run the missing cells; `on_progress` is told of events done, and of all there are.

        Raises CopyFailed when one of the runs ends before it is done.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        missing = self.missing(cells)
        gates = sorted({"on" if cell.is_tier else "off" for cell in missing})
        n_after = len(self.stream) - self.n_warm
        total = len(gates) * self.n_warm + len(missing) * n_after
        context = multiprocessing.get_context("fork")
        _Stage.lab, _Stage.steps = self, context.Value("q", 0)
        _Stage.engines = {}
        _load_kernels(self.base["on"], self.stream)
        for gate in gates:
            _Stage.engines[gate] = self._begun(gate, lambda: on_progress(_done(), total))
        _Stage.work = missing
        _run_all(context, n_jobs, lambda: on_progress(_done(), total))

    def _begun(self, gate: str, on_step: Callable[[], None]) -> Engine:
        """Return an engine that has learned the first part of the stream live."""
        settings = self.base[gate]
        engine = Engine(settings)
        engine.apply(Entry([Configure(SEMANTICS, settings.model_dump())]), "0-1")
        for start in range(0, self.n_warm, _STEP):
            batch = self.stream[start : min(start + _STEP, self.n_warm)]
            engine.apply(Entry(list(batch)), f"1-{start + 1}")
            _count(len(batch))
            on_step()
        return engine

    def load(self, cell: Cell) -> Run:
        """Return what came of a cell that has been run; raise Conflict where that is damaged."""
        path = self.path(cell)
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                facts = orjson.loads(file["facts"].tobytes())
                return Run(file["place"], file["rank"], file["reward"], file["lists"], facts)
        except (OSError, EOFError, KeyError, ValueError, BadZipFile, zlib.error) as error:
            raise Conflict(f"{path} is damaged ({error}): delete it, and run this again") from None


class _Stage:
    """What a forked run finds."""

    lab: Lab
    engines: dict[str, Engine]
    work: list[Cell]
    steps: Any


def _load_kernels(settings: EngineSettings, stream: list[Feedback]) -> None:
    """Do once here what takes seconds the first time, so that no run's cost has it."""
    small = settings.model_copy(update={"warmup_events": 1, "freshness": "batch"})
    engine = Engine(small)
    engine.apply(Entry([Configure(SEMANTICS, small.model_dump())]), "0-1")
    play = _Judged(engine)
    play.play(stream[: min(_STEP, len(stream))], 0)
    engine.gate.promote("to load what promotes", "nobody", None)


def _run_all(context: ForkContext, n_jobs: int, on_step: Callable[[], None]) -> None:
    """Run all the work, each cell in a process of its own, so many at a time.

    (A pool would wait for ever for one that the system killed, as it does when memory runs out.)
    """
    waiting = deque(range(len(_Stage.work)))
    running: dict[int, tuple[Cell, ForkProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < n_jobs:
                number = waiting.popleft()
                process = context.Process(target=_run, args=(number,))
                process.start()
                running[process.sentinel] = _Stage.work[number], process
            for sentinel in connection.wait(list(running), timeout=0.2):
                _check(*running.pop(sentinel))  # type: ignore[arg-type]
            on_step()
    finally:
        for _, process in running.values():
            process.kill()
            process.join()


def _check(cell: Cell, process: ForkProcess) -> None:
    process.join()
    if process.exitcode:
        raise CopyFailed(
            f"the run '{cell.name}' ended with {process.exitcode} before it was done. If memory was"
            " too little (-9), give fewer --jobs; what is done is kept, so run this again"
        )


def _done() -> int:
    """Return how many events are done; without the lock, which one that was killed may hold."""
    return int(_Stage.steps.get_obj().value)


def _count(n: int) -> None:
    with _Stage.steps.get_lock():
        _Stage.steps.value += n


def _run(number: int) -> None:
    """Run a cell and keep it; in a forked process, which no other cell uses."""
    lab, cell = _Stage.lab, _Stage.work[number]
    engine = _Stage.engines["on" if cell.is_tier else "off"]
    wanted = cell.settings(engine.configured)
    engine.apply(Entry([Configure(SEMANTICS, wanted.model_dump(), reconfigure=True)]), "2-1")
    found = _Judged(engine).play(lab.stream, lab.n_warm)
    path = lab.path(cell)
    partial = path.with_suffix(".part")
    with partial.open("wb") as file:
        np.savez_compressed(
            file,
            place=found.place,
            rank=found.rank,
            reward=found.reward,
            lists=found.lists,
            facts=np.frombuffer(orjson.dumps(found.facts), np.uint8),
        )
    partial.replace(path)


class _Judged:
    """Plays the rest of a stream into an engine, and takes down how each event was judged."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._judge = engine.prequential["champion"]
        self._found: list[tuple[int, int, float]] = []
        self._lists: list[list[int]] = []
        self._request_s = 0.0

    def play(self, stream: list[Feedback], first: int) -> Run:
        """Apply the events from `first` on, one to an entry; ask for a list before some of them."""
        every = max(1, (len(stream) - first) // _SAMPLES)
        before = self.engine.gate.data.n_decisions
        begin = time.process_time()
        for place in range(first, len(stream)):
            if (place - first) % every == 0:
                self._ask(stream[place])
            self._apply(stream[place], place)
            if (place - first) % _STEP == _STEP - 1:
                _count(_STEP)
        events_s = time.process_time() - begin - self._request_s
        judged = np.array(self._found, np.float64).reshape(-1, 3)
        decisions: dict[str, int] = {}
        for decision in self.engine.gate.decisions:
            if decision.number > before:
                decisions[decision.kind] = decisions.get(decision.kind, 0) + 1
        return Run(
            judged[:, 0].astype(np.int32),
            judged[:, 1].astype(np.int32),
            judged[:, 2].astype(np.float32),
            np.array(self._lists, np.uint64).reshape(-1, LIST_K),
            {
                "events": len(stream) - first,
                "events_s": events_s,
                "requests": len(self._lists),
                "requests_s": self._request_s,
                "state_bytes": _bytes_of(self.engine.state()),
                "decisions": decisions,
            },
        )

    def _ask(self, event: Feedback) -> None:
        begin = time.process_time()
        slate = self.engine.recommend(Request(event.user_id, k=LIST_K))
        self._request_s += time.process_time() - begin
        keys = [_number_of(scored.item_id) for scored in slate.items]
        self._lists.append(keys + [0] * (LIST_K - len(keys)))

    def _apply(self, event: Feedback, place: int) -> None:
        judge, n = self._judge, self._judge.n
        self.engine.apply(Entry([event]), f"3-{place + 1}")
        if judge.n > n:
            at = n % len(judge.figures.recent)
            self._found.append(
                (place, int(judge.figures.recent[at]), float(judge.figures.recent_reward[at]))
            )


def _number_of(item_id: str) -> int:
    return int.from_bytes(hashlib.sha256(item_id.encode()).digest()[:8], "little") | 1


def _bytes_of(value: Any) -> int:
    """Return how much memory the arrays of a state take, as far as they are in use."""
    return sum(
        np.asarray(part).nbytes
        for part in _parts(value)
        if isinstance(part, np.ndarray | PackedRows)
    )


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _parts(inner)
    else:
        yield value
