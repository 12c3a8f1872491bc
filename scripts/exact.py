"""Faults that are refused for certain: what was refused must not move the model by one byte."""

from __future__ import annotations

import math
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from app.engine import Engine
from app.events import Configure, Entry, Event, Feedback, Record, parse_feedback
from app.id_share import ARMED, WINDOW
from app.recommend import Request
from app.settings import EngineSettings
from app.tokens import SLATE_ID_BYTES, Tokens
from learners.kernels import MISS

HOUR_MS = 3_600_000
_ONE = "one id for all"


class ExactResult(NamedTuple):
    """What one check has shown."""

    name: str
    says: str
    must: str
    seen: str
    is_passed: bool


class Exact(NamedTuple):
    """A check; `play` returns what was seen, and whether it is what must be."""

    name: str
    says: str
    must: str
    play: Callable[[Bench], tuple[str, bool]]

    def run(self, engine: Engine, now_ms: int) -> ExactResult:
        """Play it into an engine, which is of no use for anything else afterwards."""
        seen, is_passed = self.play(Bench(engine, now_ms))
        return ExactResult(self.name, self.says, self.must, seen, is_passed)


class Bench:
    """An engine that has been running, and what a check needs to know of it."""

    def __init__(self, engine: Engine, now_ms: int) -> None:
        self.engine = engine
        self.now_ms = max(now_ms, engine.admission.watermark_ms)
        self.rng = np.random.default_rng(1)
        history = engine.history
        self.users = [str(id_) for id_ in history.users.newest()][:500]
        self.items = [str(id_) for id_ in history.items.newest()][:500]
        self._n = 0

    def event(self, **fields: Any) -> Feedback:
        """Return an event of some user on some item, now, but for the fields that are given."""
        self._n += 1
        user = self.users[int(self.rng.integers(len(self.users)))]
        item = self.items[int(self.rng.integers(len(self.items)))]
        usual: dict[str, Any] = {"event_id": f"drill-{self._n}", "user_id": user, "item_id": item}
        return Feedback(**(usual | {"type": "click", "time_ms": self.now_ms} | fields))

    def apply(self, records: Sequence[Record], arrival_ms: int | None = None) -> Counter[str]:
        """Apply one entry; return how many of its events came to what, by status and reason."""
        entry = Entry(list(records), self.now_ms if arrival_ms is None else arrival_ms)
        ms = int(self.engine.cursor.partition("-")[0])
        outcome = self.engine.apply(entry, f"{ms + 1}-0")
        return Counter(r.status if r.reason is None else r.reason for r in outcome.results)

    def set(self, **changes: Any) -> None:
        """Change settings, as an operator would."""
        wanted = EngineSettings(**(self.engine.configured.model_dump() | changes))
        self.apply([Configure(self.engine.semantics, wanted.model_dump(), reconfigure=True)])

    def is_unmoved(self, before: dict[str, str], *, wholly: bool = False) -> bool:
        """Tell whether the model (or wholly: all state) has the hash that it had."""
        after = self.engine.hashes()
        names = ("model_hash", "state_hash") if wholly else ("model_hash",)
        return all(after[name] == before[name] for name in names)


def _duplicates(bench: Bench) -> tuple[str, bool]:
    batch = [bench.event() for _ in range(100)]
    bench.apply(batch)
    before = bench.engine.hashes()
    again = bench.apply(batch)
    same = bench.is_unmoved(before, wholly=True)
    # A day and an hour later the first ones are too old, and still known.
    bench.now_ms += 25 * HOUR_MS
    bench.apply([bench.event()])
    late = bench.apply(batch)
    passed = same and again == late == Counter(duplicate=100)
    return _counts(again + late), passed


def _garbage(bench: Bench) -> tuple[str, bool]:
    good: dict[str, Any] = {"user_id": "u", "item_id": "i", "type": "click"}
    rating = good | {"type": "rating"}
    raws: list[Any] = [
        *(rating | {"value": value} for value in (math.nan, math.inf, 99, -1, "5", True, None)),
        *(good | {"item_id": id_} for id_ in ("", "x" * 10_000_000, 7, None, ["i"], "\0")),
        *(good | {"type": type_} for type_ in ("stare", "", 1)),
        *(good | {"timestamp": time} for time in ("soon", -1, math.inf, 1e18)),
        *("text", 7, None, [], {}),
    ]
    parsed: list[Event] = [parse_feedback(raw, new_id=f"bad-{n}") for n, raw in enumerate(raws)]
    before = bench.engine.hashes()
    seen = bench.apply(parsed)
    return _counts(seen), bench.is_unmoved(before) and "learned" not in seen


def _times(bench: Bench) -> tuple[str, bool]:
    settings = bench.engine.settings
    future = bench.now_ms + settings.future_s * 1_000 + 1
    past = bench.engine.admission.watermark_ms - settings.lateness_s * 1_000 - 1
    before = bench.engine.hashes()
    seen = bench.apply([bench.event(time_ms=future), bench.event(time_ms=past)])
    return _counts(seen), bench.is_unmoved(before) and seen == Counter(future=1, late=1)


def _out_of_order(bench: Bench) -> tuple[str, bool]:
    bench.apply([bench.event(user_id="drill", item_id="drill-new")])
    earlier_ms = bench.engine.admission.watermark_ms - 600_000
    seen = bench.apply([bench.event(user_id="drill", item_id="drill-old", time_ms=earlier_ms)])
    history = bench.engine.history
    had = history.had(history.users.get("drill"))
    passed = [(h.item_id, h.time_ms == earlier_ms) for h in had][-1] == ("drill-old", True)
    return _counts(seen), passed and "learned" in seen


def _flood_of_a_user(bench: Bench) -> tuple[str, bool]:
    most = bench.engine.settings.cap_user
    seen = bench.apply([bench.event(user_id="drill-flood") for _ in range(most + 2_000)])
    n_learned = seen["learned"] + seen["repeat"]
    return _counts(seen), n_learned <= most and seen["cap_user"] + seen["id_share"] >= 2_000


def _one_user_on_one_item(bench: Bench) -> tuple[str, bool]:
    settings = bench.engine.settings
    events = [bench.event(user_id="drill", item_id=bench.items[0]) for _ in range(500)]
    seen = bench.apply(events)
    most = settings.cap_user_item if settings.teach_repeats else 1
    return _counts(seen), seen["learned"] <= most and "cap_user_item" in seen


def _flood_of_a_source(bench: Bench) -> tuple[str, bool]:
    bench.set(cap_source_item=20)
    item = bench.items[0]
    users = [f"drill-{n}" for n in range(200)]
    seen = bench.apply([bench.event(user_id=u, item_id=item, source="app") for u in users])
    return _counts(seen), seen == Counter(learned=20, cap_source_item=180)


def _ids_collapse(bench: Bench) -> tuple[str, bool]:
    while (n_before := bench.engine.n_events) < ARMED + WINDOW:
        # Each time others, or a low cap would end it.
        users = [f"drill-before-{n_before + n}" for n in range(250)]
        refused = bench.apply([bench.event(user_id=user) for user in users])
        if bench.engine.n_events == n_before:
            return f"before it: {_counts(refused)}", False
    # What one honest user once had is no sign: where that was much, it takes more.
    admission = bench.engine.admission
    share = max(0.1, 1.5 * admission.shares.limit(_ONE, bench.engine.settings.id_share))
    is_one = bench.rng.random(2_000) < share
    users = [_ONE if one else f"drill-{n // 3}" for n, one in enumerate(is_one)]
    seen: Counter[str] = Counter()
    first: int | None = None
    for n, user in enumerate(users):
        bench.now_ms += 5_000
        found = bench.apply([bench.event(user_id=user)])
        if "id_share" in found and first is None:
            first = n
        seen += found
    n_honest = int((~is_one).sum())
    n_late = int(is_one[500:].sum())
    passed = first is not None and first < 500 and seen["id_share"] >= 0.9 * n_late
    passed = passed and seen["learned"] + seen["repeat"] >= n_honest
    return f"at {share:.0%}: from event {first} on; {_counts(seen)}", passed


def _shifted(bench: Bench) -> tuple[str, bool]:
    bench.set(tokens="check")
    engine = bench.engine
    tokens = Tokens([secrets.token_bytes(32)], "drill", 86_400_000)
    slate = engine.recommend(Request("drill-shopper", k=10))
    items = engine.history.items
    handles = [items.handle(items.get(scored.item_id)) for scored in slate.items]
    slate_id = secrets.token_urlsafe(SLATE_ID_BYTES)
    token = tokens.mint(slate_id, "drill-shopper", handles, bench.now_ms)
    shown = {scored.item_id for scored in slate.items}
    others = [item for item in bench.items if item not in shown][:7]
    events = []
    for item in others:
        index = items.get(item)
        handle = None if index == MISS else items.handle(index)
        reading = tokens.verify(token, user_id="drill-shopper", handle=handle, now_ms=bench.now_ms)
        events.append(
            bench.event(
                user_id="drill-shopper",
                item_id=item,
                recommendation_id=slate_id,
                token=reading.verdict,
            )
        )
    before = engine.hashes()
    seen = bench.apply(events)
    return _counts(seen), bench.is_unmoved(before) and seen == Counter(token=len(others))


def _counts(seen: Counter[str]) -> str:
    return ", ".join(f"{what} {n:,}" for what, n in sorted(seen.items()) if n)


EXACT = (
    Exact("duplicate", "a batch sent again, at once and a day later", "duplicate", _duplicates),
    Exact("garbage", "NaN, wrong types, ids of 10 MB, unknown types", "refused", _garbage),
    Exact("times", "from the future, and too old", "future, late", _times),
    Exact("out-of-order", "ten minutes behind", "learned as of then", _out_of_order),
    Exact("flood-user", "one user floods", "up to cap_user", _flood_of_a_user),
    Exact("flood-item", "one user repeats one item", "taught once", _one_user_on_one_item),
    Exact("flood-source", "one source on one item", "up to cap_source_item", _flood_of_a_source),
    Exact(
        "ids-collapse",
        "one user id for 10 % of traffic or more",
        "refused within 500",
        _ids_collapse,
    ),
    Exact("shifted-ids", "feedback on items not shown, tokens on", "token, at once", _shifted),
)
"""In the order of the table."""
