from __future__ import annotations

import orjson

from app.answers import MAX_SLATES, Answers


def test_the_first_click_on_a_slate_is_told() -> None:
    """Of all clicks on a slate one is its first, whichever item it is on."""
    answers = Answers()
    assert answers.note("s", "a")
    assert not answers.note("s", "b")
    assert not answers.note("s", "a")
    assert answers.note("t", "a")


def test_clicks_are_taken_once() -> None:
    """What was clicked comes back in its order, each item once, and is forgotten then."""
    answers = Answers()
    for item in ("b", "a", "b", "c", "a"):
        answers.note("s", item)
    answers.note("t", "z")
    assert answers.take("s") == ["b", "a", "c"]
    assert answers.take("s") == []
    assert answers.take("t") == ["z"]
    assert answers.take("never shown") == []


def test_answers_are_bounded() -> None:
    """Past 100,000 slates the one that was first answered goes, however often it was since."""
    answers = Answers()
    for n in range(MAX_SLATES):
        answers.note(f"s{n}", "a")
    answers.note("s0", "b")
    assert len(answers.state()["slates"]) == MAX_SLATES == 100_000
    answers.note("new", "a")
    assert len(answers.state()["slates"]) == MAX_SLATES
    assert answers.take("s0") == []
    assert answers.take("s1") == ["a"]
    answers.note("newer", "a")
    assert answers.take("s2") == ["a"]


def test_state_continues_exactly() -> None:
    """Answers made from a state, at the bound, answer the same and lose the same slates next."""
    answers, twin = Answers(), Answers()
    for n in range(MAX_SLATES):
        answers.note(f"s{n * 7 % MAX_SLATES}", f"i{n % 3}")
    twin.load_state(orjson.loads(orjson.dumps(answers.state())))
    for n in range(500):
        slate, item = f"s{n * n}", f"i{n % 4}"
        assert twin.note(slate, item) == answers.note(slate, item)
        assert n % 5 or twin.take(f"s{n % 90}") == answers.take(f"s{n % 90}")
    assert orjson.dumps(twin.state()) == orjson.dumps(answers.state())


def test_a_state_is_a_copy() -> None:
    """What was taken as a state, or given as one, does not change with the answers."""
    answers, twin = Answers(), Answers()
    answers.note("s", "a")
    state = answers.state()
    twin.load_state(state)
    for one in (answers, twin):
        one.note("s", "b")
        one.note("t", "a")
    assert state == {"slates": [["s", "a"]]}


def test_a_slate_is_judged_once() -> None:
    """Whatever became of it since; of the last 100,000 that were, those before are forgotten."""
    answers = Answers()
    assert "judged" not in answers.state()
    assert [answers.judge(f"s{n}") for n in range(MAX_SLATES)] == [True] * MAX_SLATES
    answers.note("s0", "a")
    twin = Answers()
    twin.load_state(orjson.loads(orjson.dumps(answers.state())))
    for one in (answers, twin):
        assert not one.judge("s0")
        assert one.judge("new")
        assert one.judge("s0")
        assert not one.judge("s2")
