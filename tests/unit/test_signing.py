from __future__ import annotations

import asyncio

import pytest

from app.api.metrics import Metrics
from app.api.signing import Signing
from app.engine import Engine
from app.events import Event, Feedback, Malformed
from app.hold import Hold
from app.impressions import Impressions
from app.ingest import Ingest
from app.recommend import Request
from app.settings import Settings
from app.store import Store
from tests.factories import SMALL, START_MS, click, configure, feed, make_settings, sessions

NOW_MS = START_MS + 10_000_000


def signing(**changes: object) -> tuple[Engine, Signing, Impressions]:
    """Return an engine that knows u0 to u9, what signs for it, and what it was noted in."""
    settings = Settings(**(SMALL | {"tokens": "check", "token_keys": "k" * 16} | changes))
    ingest = Ingest(Store("unix:///nowhere", settings), settings)
    ingest.is_store_up = True
    feed(ingest.engine, [configure(settings.engine()), *sessions(600, n_users=10)], group=700)
    impressions = Impressions(ingest, settings)
    return ingest.engine, Signing(settings, impressions, Metrics(lambda: ingest)), impressions


def verified(signing: Signing, engine: Engine, *events: Event) -> list[Event]:
    """Return events as they go into the log."""
    return asyncio.run(signing.verified(engine, events, NOW_MS))


def test_the_team_of_each_place_comes_back() -> None:
    """Where two versions filled the slate, feedback on an item says which of them drafted it."""
    engine, ours, impressions = signing(arbiter_share=1.0, trusted_history=1)
    engine.gate.data.state = "hold"
    engine.gate.arbiter.begin(Hold(1, 0, 0, "clicks_over", 0, 0))
    slate, token = ours.recommend(engine, Request("u1"), NOW_MS)
    assert slate.draft is not None
    assert set(slate.draft.teams) >= {"a", "b"}
    for place, scored in enumerate(slate.items):
        sent = click("u1", scored.item_id, recommendation_id=token)
        [event] = verified(ours, engine, sent)
        assert isinstance(event, Feedback)
        assert (event.token, event.draft) == ("valid", slate.draft.mark(place))
    assert impressions.n_buffered == 0


def test_what_two_versions_drafted_is_never_compared() -> None:
    """However much of it was shown: also where both wanted the last place, or all of them."""
    engine, ours, _ = signing(arbiter_share=1.0, trusted_history=1)
    engine.gate.data.state = "hold"
    engine.gate.arbiter.begin(Hold(1, 0, 0, "clicks_over", 0, 0))
    wanted_by_both = 0
    for user in range(10):
        slate, token = ours.recommend(engine, Request(f"u{user}"), NOW_MS)
        assert slate.draft is not None
        wanted_by_both += slate.draft.teams.count("both")
        shown = [scored.item_id for scored in slate.items]
        for n in range(1, len(shown) + 1):
            _, is_compared = ours.verify_shown(engine, token, f"u{user}", shown[:n], NOW_MS)
            assert not is_compared
    assert wanted_by_both


@pytest.mark.parametrize("history", [None, ["i1"]])
def test_what_was_made_for_nobody_is_compared_for_nobody(history: list[str] | None) -> None:
    """An anonymous session's slate, declared under a user's id, is no slate of that user."""
    engine, ours, _ = signing()
    slate, token = ours.recommend(engine, Request(None, history=history), NOW_MS)
    shown = [scored.item_id for scored in slate.items]
    assert not ours.verify_shown(engine, token, "u1", shown, NOW_MS)[1]
    slate, token = ours.recommend(engine, Request("u1"), NOW_MS)
    shown = [scored.item_id for scored in slate.items]
    assert ours.verify_shown(engine, token, "u1", shown, NOW_MS)[1]


def test_replicas_of_before_can_read_the_token_of_a_drafted_slate() -> None:
    """Until the log is upgraded each place has one team, as all replicas understand it."""
    settings = make_settings(tokens="check", arbiter_share=1.0, trusted_history=1)
    engine = Engine(settings)
    feed(engine, [configure(settings, semantics=9), *sessions(600, n_users=10)], group=700)
    engine.gate.data.state = "hold"
    engine.gate.arbiter.begin(Hold(1, 0, 0, "clicks_over", 0, 0))
    for number in range(10):
        slate = engine.recommend(Request("u1"), f"slate-{number}")
        assert slate.draft is not None
        assert set(slate.draft.teams) == {"a", "b"}


def test_a_slate_of_one_version_is_noted() -> None:
    """A slate that one version filled is an impression, under the id that feedback brings back."""
    engine, ours, impressions = signing()
    slate, token = ours.recommend(engine, Request("u1"), NOW_MS)
    assert slate.draft is None
    assert impressions.n_buffered == 1
    [event] = verified(ours, engine, click("u1", slate.items[0].item_id, recommendation_id=token))
    assert isinstance(event, Feedback)
    assert event.draft is None
    _, other = ours.recommend(engine, Request("u1"), NOW_MS)
    [again] = verified(ours, engine, click("u1", slate.items[0].item_id, recommendation_id=other))
    assert isinstance(again, Feedback)
    assert again.recommendation_id != event.recommendation_id


def test_what_has_no_token_stays_as_it_is() -> None:
    """An event without a recommendation id, and one that could not be read, pass untouched."""
    engine, ours, _ = signing()
    events: list[Event] = [click("u1", "i"), Malformed("schema", "no user")]
    assert verified(ours, engine, *events) == events


def test_a_token_that_is_not_ours_leaves_nothing_behind() -> None:
    """Neither what was sent nor a signature goes into the entry, only what is wrong with it."""
    engine, ours, _ = signing()
    slate, token = ours.recommend(engine, Request("u1"), NOW_MS)
    item = slate.items[0].item_id
    forged = token[:-9] + ("A" if token[-9] != "A" else "Q") + token[-8:]
    for sent, user, verdict, is_known in (
        (forged, "u1", "signature", False),
        ("x", "u1", "malformed", False),
        (token, "u2", "user", True),
    ):
        [event] = verified(ours, engine, click(user, item, recommendation_id=sent))
        assert isinstance(event, Feedback)
        assert event.token == verdict
        assert (event.recommendation_id is not None) is is_known
        assert token[-20:] not in repr(event)
