"""How much an item may teach in a day."""

from __future__ import annotations

from app.events import DAY_MS, Feedback
from app.growth import Growth
from learners.history import History
from tests.factories import apply, make_engine

LEAST = 10


def make_growth(n_items: int = 3) -> Growth:
    """Return a rule over a history with some items, of which the last taught on the first day."""
    history = History(
        max_items=10, max_users=10, history_length=8, scored_history=4, had_length=100
    )
    for n in range(n_items):
        history.touch_item(f"i{n}", n + 1)
    growth = Growth(history)
    growth.count(n_items - 1, 0)
    return growth


def taught(growth: Growth, index: int, n: int, at_ms: int) -> int:
    """Let an item come up n times; return how often it may teach."""
    n_taught = 0
    for _ in range(n):
        if not growth.is_past(index, at_ms, LEAST):
            growth.count(index, at_ms)
            n_taught += 1
    return n_taught


def test_an_item_may_double_from_day_to_day() -> None:
    """At least ten on its first day, then as much as on all days before."""
    growth = make_growth()
    per_day = [taught(growth, 0, 1_000, day * DAY_MS) for day in range(1, 7)]
    assert per_day == [10, 10, 20, 40, 80, 160]


def test_the_first_day_is_free() -> None:
    """On a log's first day nothing has taught before, so nothing is refused."""
    growth = make_growth()
    assert taught(growth, 1, 500, DAY_MS - 1) == 500
    assert taught(growth, 1, 1_000, 2 * DAY_MS) == 500


def test_zero_turns_the_rule_off() -> None:
    """With a least of 0 an item may teach whatever comes."""
    growth = make_growth()
    taught(growth, 0, 50, DAY_MS)
    assert growth.is_past(0, DAY_MS, LEAST)
    assert not growth.is_past(0, DAY_MS, 0)


def test_it_goes_on_from_its_state() -> None:
    """A copy made of the state answers as the original does, and is hashed the same."""
    growth = make_growth()
    taught(growth, 0, 7, DAY_MS)
    copy = make_growth()
    copy.load_state(growth.state())
    assert copy.canonical() == growth.canonical()
    assert taught(copy, 0, 9, DAY_MS) == taught(growth, 0, 9, DAY_MS) == 3
    assert copy.canonical() == growth.canonical()


def test_what_is_past_it_counts_for_its_user_alone() -> None:
    """Past the rule the answer says so, the user's history has it, and the model does not move."""
    engine = make_engine(growth_least=2)
    start = 1_764_000_000_000
    usual = [Feedback(f"a{n}", f"u{n}", "i1", "click", time_ms=start) for n in range(3)]
    apply(engine, *usual)
    later = start + 2 * DAY_MS
    found = []
    for n in range(4):
        event = Feedback(f"b{n}", f"v{n}", "new", "click", time_ms=later + n)
        before = engine.n_learned
        result = apply(engine, event).results[0]
        found.append((result.status, result.reason, engine.n_learned - before))
    assert found == [
        ("learned", None, 1),
        ("learned", None, 1),
        ("learned", "growth", 0),
        ("learned", "growth", 0),
    ]
    history = engine.history
    assert history.has_had(history.users.get("v3"), history.items.get("new"))
    assert engine.admission.counts["learned:growth"] == 2
    released = Feedback("c1", "v9", "new", "click", time_ms=later + 9, released=True)
    assert apply(engine, released).results[0].reason is None
