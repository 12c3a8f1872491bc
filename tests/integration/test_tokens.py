"""Signed recommendation ids and impressions, over HTTP and down to the log."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app import events
from app.events import Impression
from tests.factories import sessions
from tests.integration.service import Service, error_of, small, until

StartService = Callable[..., Service]
OLD, NEW, OTHER = "old-key-of-tests" * 2, "new-key-of-tests" * 2, "other-key-of-tests" * 2
# No impression gets into the log meanwhile, so hashes and counts are the test's own.
LONG_S = 3_000


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that checks tokens and has learned 600 events; tests use users of their own."""
    folder = tmp_path_factory.mktemp("checked")
    settings = {"tokens": "check", "token_keys": NEW, "impression_wait_s": LONG_S}
    service = small(folder, max_users=2_000, warmup_events=100_000, **settings).start()
    service.learn(sessions(600, n_users=100))
    yield service
    for secret in (NEW, OLD):
        assert secret not in service.log
    service.close()


def shown(service: Service, user: str, k: int = 10, **params: Any) -> tuple[str, list[str]]:
    """Return the token and the items of a user's slate."""
    answer = service.get(f"/v1/recommendations/{user}", k=k, **params)
    return answer["recommendation_id"], [item["item_id"] for item in answer["items"]]


def click(user: str, item: str, token: str | None, **rest: Any) -> dict[str, Any]:
    """Return an event that answers a slate."""
    return {"user_id": user, "item_id": item, "type": "click", "recommendation_id": token} | rest


def send(service: Service, *sent: dict[str, Any]) -> list[tuple[str, str | None]]:
    """Post events; return status and reason of each."""
    answer = service.post("/v1/feedback", list(sent))
    return [(result["status"], result["reason"]) for result in answer["results"]]


def why(service: Service, event: dict[str, Any]) -> str:
    """Post an event that must be refused for its token; return the message in quarantine."""
    event_id = f"refused-{uuid.uuid4().hex}"
    assert send(service, event | {"event_id": event_id}) == [("quarantined", "token")]

    def message() -> str | None:
        listed = service.get("/v1/quarantine", n=5)["records"]
        found = [r["message"] for r in listed if r["event"]["event_id"] == event_id]
        return str(found[0]) if found else None

    return str(until(message))


def log(service: Service) -> list[bytes]:
    """Return the payloads of the log."""
    with service.store() as store:
        [key] = list(store.scan_iter("*:log"))
        entries: Any = store.xrange(key)
    return [fields[b"e"] for _, fields in entries]


def records(service: Service) -> list[events.Record]:
    """Return the records of the log."""
    return [record for payload in log(service) for record in events.decode(payload).records]


def impressions(service: Service) -> list[Impression]:
    """Return the impressions of the log."""
    return [record for record in records(service) if isinstance(record, Impression)]


def buffered(service: Service, outcome: str = "buffered") -> float:
    """Return how many impressions have come to this."""
    return service.counter(f'sluice_impressions_total{{outcome="{outcome}"}}')


# -- tokens -----------------------------------------------------------------------------------


def test_feedback_on_what_was_shown_is_learned(checked: Service) -> None:
    """A slate's token is valid for each of its items; the log has the verdict, never the token."""
    token, items = shown(checked, "u1")
    valid = checked.counter('sluice_tokens_total{verdict="valid"}')
    assert send(checked, *(click("u1", i, token) for i in items)) == [("learned", None)] * 10
    assert checked.counter('sluice_tokens_total{verdict="valid"}') == valid + 10
    logged = [r for r in records(checked)[-10:] if isinstance(r, events.Feedback)]
    assert [r.token for r in logged] == ["valid"] * 10
    assert [r.draft for r in logged] == [None] * 10
    [slate_id] = {r.recommendation_id for r in logged}
    assert slate_id
    assert len(slate_id) == 12
    everything = b"".join(log(checked))
    for secret in (NEW, token, token[-20:]):
        assert secret.encode() not in everything


@pytest.mark.parametrize("form", ["get", "user", "user and history", "anonymous", "candidates"])
def test_every_recommendation_has_a_token(checked: Service, form: str) -> None:
    """GET and POST sign; a slate for nobody may be answered by any user."""
    user = f"form-{form}"
    bodies: dict[str, dict[str, Any]] = {
        "user": {"user_id": user},
        "user and history": {"user_id": user, "history": ["g01i1"]},
        "anonymous": {"history": ["g01i1"]},
        "candidates": {"user_id": user, "candidates": ["g02i1", "g03i1"]},
    }
    if form == "get":
        answer = checked.get(f"/v1/recommendations/{user}")
    else:
        answer = checked.post("/v1/recommendations", bodies[form])
    token, item = answer["recommendation_id"], answer["items"][-1]["item_id"]
    assert len(token) < 256
    assert send(checked, click(user, item, token)) == [("learned", None)]
    stranger = send(checked, click("somebody else", item, token))
    assert stranger == [("learned", None) if form == "anonymous" else ("quarantined", "token")]
    assert "recommendation_id" not in checked.get("/v1/trending")
    assert "recommendation_id" not in checked.get("/v1/items/g01i1/similar")


def test_the_longest_slate_has_a_token_too(checked: Service) -> None:
    """200 places make a token of less than 2,048 characters, and it comes back whole."""
    token, items = shown(checked, "long", k=200)
    assert len(items) > 100
    assert len(token) < 2_048
    assert send(checked, click("long", items[-1], token)) == [("learned", None)]


def test_what_was_not_shown_leaves_no_byte(checked: Service) -> None:
    """Ids shifted by seven are quarantined from the first event on, and change no byte of a model.

    So are another user's token, an unknown item, and what is no token at all.
    """
    token, items = shown(checked, "u2")
    known = [f"g{n // 10:02d}i{n % 10}" for n in range(150)]
    shifted = [known[(known.index(item) + 7) % len(known)] for item in items]
    wrong = [item for item in shifted if item not in items]
    assert wrong
    before = checked.hashes()
    for item in wrong:
        assert send(checked, click("u2", item, token)) == [("quarantined", "token")]
    assert "without this item" in why(checked, click("u2", "never seen", token))
    assert "another user" in why(checked, click("u3", items[0], token))
    assert "not signed" in why(checked, click("u2", items[0], swapped(token)))
    assert "none of this service" in why(checked, click("u2", items[0], "pHvHBWTPxhlbe5BO"))
    assert checked.hashes()["model_hash"] == before["model_hash"]
    error_of(checked.client.get("/v1/items/never seen"), 404)
    assert send(checked, click("u2", items[0], token)) == [("learned", None)]


def swapped(token: str) -> str:
    """Return a token with another signature."""
    other = "A" if token[-10] != "A" else "B"
    return token[:-10] + other + token[-9:]


def test_check_asks_no_token_of_what_answers_no_slate(checked: Service) -> None:
    """With `check` an event without a recommendation id is learned as ever, and counted."""
    none = checked.counter('sluice_tokens_total{verdict="none"}')
    assert send(checked, click("u4", "g00i1", None)) == [("learned", None)]
    assert checked.counter('sluice_tokens_total{verdict="none"}') == none + 1


def test_a_client_cannot_vouch_for_itself(checked: Service) -> None:
    """A verdict, a team or a release that a client sends count for nothing."""
    forged = {"token": "valid", "draft": "hold:1:b", "released": True}
    before = checked.hashes()
    event = click("u5", "g00i1", "made-up") | forged
    assert send(checked, event) == [("quarantined", "token")]
    assert checked.hashes()["model_hash"] == before["model_hash"]


def test_a_retry_is_a_duplicate_whatever_its_token(checked: Service) -> None:
    """An event sent again is a duplicate, not a bad token, and leaves both hashes."""
    token, items = shown(checked, "u6")
    event = click("u6", items[0], token, event_id="again")
    assert send(checked, event) == [("learned", None)]
    before = checked.hashes()
    assert send(checked, event, event | {"recommendation_id": "x"}) == [("duplicate", None)] * 2
    assert checked.hashes() == before


def test_an_item_made_anew_is_another_item(checked: Service) -> None:
    """A token names the item that was shown: deleted and created again, it is not that one."""
    checked.client.put("/v1/items/anew", json={"categories": ["anew-only"]})
    token, items = shown(checked, "u7", category="anew-only")
    assert items == ["anew"]
    assert send(checked, click("u7", "anew", token)) == [("learned", None)]
    assert checked.client.delete("/v1/items/anew").is_success
    checked.client.put("/v1/items/anew", json={"categories": ["anew-only"]})
    assert "without this item" in why(checked, click("u7", "anew", token))
    token, _ = shown(checked, "u8", category="anew-only")
    assert send(checked, click("u8", "anew", token)) == [("learned", None)]


def test_a_batch_is_verified_event_by_event(checked: Service) -> None:
    """Of 1,000 events in one POST each gets its own verdict, in its place."""
    token, items = shown(checked, "u9")
    sent = [
        click("u9", "", token) if n % 10 == 3
        else click("u9", items[n % 10], token if n % 2 else "forged", event_id=f"batch-{n}")
        for n in range(1_000)
    ]  # fmt: skip
    found = send(checked, *sent)
    for n, (status, reason) in enumerate(found):
        if n % 10 == 3:
            assert (status, reason) == ("quarantined", "schema")
        elif n % 2 == 0:
            assert (status, reason) == ("quarantined", "token")
        else:
            assert reason in (None, "repeat", "cap_user_item")


def test_ids_are_bounded_as_before(checked: Service) -> None:
    """Only a recommendation id may have over 256 bytes, and no more than 2,048."""
    for name, length, reason in (
        ("recommendation_id", 2_048, "token"),
        ("recommendation_id", 2_049, "schema"),
        ("source", 257, "schema"),
        ("item_id", 257, "schema"),
    ):
        event = click("u10", "g00i1", None) | {name: "x" * length}
        assert send(checked, event) == [("quarantined", reason)]


def test_require_wants_a_token_of_every_event(make_service: StartService) -> None:
    """With `require` what answers no slate of ours is not learned; unless it has expired, it is."""
    settings = {"tokens": "require", "token_keys": NEW, "token_max_age_s": 1}
    service = make_service(**settings).start()
    for n in range(3):
        service.client.put(f"/v1/items/i{n}", json={})
    before = service.hashes()
    assert "no recommendation_id" in why(service, click("u", "i1", None))
    assert service.hashes()["model_hash"] == before["model_hash"]
    token, [item, *_] = shown(service, "u")
    assert send(service, click("u", item, token)) == [("learned", None)]
    until(lambda: send(service, click("u", item, token)) == [("quarantined", "token")])
    assert "too old" in why(service, click("u", item, token))
    token, [item, *_] = shown(service, "u")
    assert send(service, click("u", item, token)) == [("learned", None)]


def test_keys_rotate_between_starts(make_service: StartService) -> None:
    """With a new key first the old one's tokens are good; without the old one they are not."""
    service = make_service(tokens="check", token_keys=OLD).start()
    service.learn(sessions(100, n_users=20))
    old, [item, *_] = shown(service, "u1")
    service.stop()
    service.settings["token_keys"] = f"{NEW},{OLD}"
    service.start()
    assert send(service, click("u1", item, old)) == [("learned", None)]
    new, [item, *_] = shown(service, "u1")
    service.stop()
    service.settings["token_keys"] = NEW
    service.start()
    assert send(service, click("u1", item, new)) == [("learned", None)]
    assert "not signed" in why(service, click("u1", item, old))
    service.stop()
    service.settings["token_keys"] = OTHER
    service.start()
    assert "not signed" in why(service, click("u1", item, new))


def test_tokens_can_be_turned_on_within_a_log(make_service: StartService) -> None:
    """A log begun without tokens goes on with them after --reconfigure; the reverse as well."""
    service = make_service().start()
    service.learn(sessions(100, n_users=20))
    plain, [item, *_] = shown(service, "u1")
    assert len(plain) == 24
    assert send(service, click("u1", item, plain)) == [("learned", None)]
    assert send(service, click("u1", item, "x" * 257)) == [("quarantined", "schema")]
    service.stop()
    service.settings |= {"tokens": "check", "token_keys": NEW}
    service.start("--reconfigure")
    assert "none of this service" in why(service, click("u1", item, plain))
    token, [item, *_] = shown(service, "u1")
    assert send(service, click("u1", item, token)) == [("learned", None)]
    service.stop()
    del service.settings["token_keys"]
    service.settings["tokens"] = "off"
    service.start("--reconfigure")
    assert send(service, click("u1", item, "anything")) == [("learned", "repeat")]


def test_a_start_without_keys_says_how_to_make_one(make_service: StartService) -> None:
    """Tokens without keys stop the start with one line, and no trace."""
    service = make_service(tokens="check")
    service.launch()
    assert service.wait() not in (0, None)
    assert "openssl rand -hex 32" in service.log
    assert "Traceback" not in service.log


# -- impressions ------------------------------------------------------------------------------


@pytest.fixture
def shop(make_service: StartService) -> Service:
    """A service that logs impressions a moment after they are made, and knows u0 to u19."""
    settings = {"tokens": "check", "token_keys": NEW, "impression_wait_s": 0.1}
    service = make_service(**settings).start()
    service.learn(sessions(300, n_users=20))
    return service


def test_what_a_known_user_was_shown_gets_into_the_log(shop: Service) -> None:
    """Each slate is logged once: its id, user, first 20 items and scores, and when it was shown."""
    answers = {}
    for user, k in (("u1", 5), ("u2", 50), ("u1", 5)):
        answer = shop.get(f"/v1/recommendations/{user}", k=k)
        answers[answer["recommendation_id"]] = answer
    answer = shop.post("/v1/recommendations", {"user_id": "u3"})
    answers[answer["recommendation_id"]] = answer
    until(lambda: buffered(shop, "appended") == 4)
    assert (buffered(shop), buffered(shop, "dropped")) == (4, 0)
    found = impressions(shop)
    assert [i.user_id for i in found] == ["u1", "u2", "u1", "u3"]
    assert len({i.recommendation_id for i in found}) == 4
    for impression, answer in zip(found, answers.values()):
        items = answer["items"][:20]
        assert impression.items == [item["item_id"] for item in items]
        assert impression.scores == [item["score"] for item in items]
        item = answer["items"][-1]["item_id"]
        shop.post("/v1/feedback", click(impression.user_id, item, answer["recommendation_id"]))
        answered = records(shop)[-1]
        assert isinstance(answered, events.Feedback)
        assert answered.recommendation_id == impression.recommendation_id
    times = [i.time_ms for i in found]
    assert times == sorted(times)
    assert 0 <= time.time() * 1_000 - times[0] < 60_000


def test_what_is_no_impression_stays_out(shop: Service) -> None:
    """Strangers are counted; anonymous, explained and given lists, and other lists, are nothing."""
    shop.get("/v1/recommendations/a-stranger")
    shop.get("/v1/recommendations/another", explain="true")
    shop.get("/v1/recommendations/u1", explain="true")
    shop.get("/v1/recommendations/u1", category="nothing has it")
    for body in (
        {},
        {"history": ["g01i1"]},
        {"user_id": "u1", "history": ["g01i1"]},
        {"user_id": "u1", "candidates": ["g01i1", "g02i1", "g03i1"]},
    ):
        shop.post("/v1/recommendations", body)
    shop.get("/v1/trending")
    shop.get("/v1/items/g01i1/similar")
    assert shop.counter("sluice_stranger_slates_total") == 1
    assert buffered(shop) == 0
    shop.get("/v1/recommendations/u1")
    until(lambda: buffered(shop, "appended") == 1)
    assert len(impressions(shop)) == 1


def test_impressions_and_reads_change_no_model(shop: Service) -> None:
    """Slates and the entries that they make leave the model and all that decides about events."""
    before = shop.hashes()
    for n in range(20):
        shop.get(f"/v1/recommendations/u{n}")
    until(lambda: buffered(shop, "appended") == 20)
    cursor = shop.get("/v1/model")["cursor"]
    shop.get("/v1/recommendations/u1", min_cursor=cursor, deadline_ms=5_000)
    assert shop.hashes()["model_hash"] == before["model_hash"]
    shop.kill()
    shop.start()
    assert len(impressions(shop)) == 20
    assert shop.hashes()["model_hash"] == before["model_hash"]


def test_a_share_of_the_slates_is_enough(make_service: StartService) -> None:
    """With `impression_share` at 0 none is buffered; at a half some are and some are not."""
    settings = {"tokens": "check", "token_keys": NEW, "impression_wait_s": LONG_S}
    for share in (0, 0.5):
        service = make_service(f"share-{share}", impression_share=share, **settings).start()
        service.learn(sessions(300, n_users=20))
        for n in range(60):
            service.get(f"/v1/recommendations/u{n % 10}")
        assert (10 < buffered(service) < 50) if share else (buffered(service) == 0)


def test_who_is_forgotten_is_not_named_again(make_service: StartService) -> None:
    """What was shown to a user who is deleted before it is due never gets into the log."""
    settings = {"tokens": "check", "token_keys": NEW, "impression_wait_s": 1.5}
    service = make_service(**settings).start()
    service.learn(sessions(300, n_users=20))
    service.get("/v1/recommendations/u1")
    assert service.client.delete("/v1/users/u1").is_success
    service.get("/v1/recommendations/u2")
    until(lambda: buffered(service, "appended") == 1)
    assert buffered(service, "dropped") == 1
    assert [i.user_id for i in impressions(service)] == ["u2"]


def test_while_the_store_is_down_nothing_is_kept(make_service: StartService) -> None:
    """While the store stands still slates have tokens, none is buffered, and those that were go.

    When it is back, slates are buffered again.
    """
    settings = {"tokens": "check", "token_keys": NEW, "impression_wait_s": LONG_S}
    service = make_service(**settings).start()
    service.learn(sessions(300, n_users=20))
    for _ in range(5):
        service.get("/v1/recommendations/u1")
    pid = service.store_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: service.counter("sluice_store_up") == 0)
        token, [item, *_] = shown(service, "u1")
        until(lambda: buffered(service, "dropped") == 5)
        assert buffered(service) == 5
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda: service.counter("sluice_store_up") == 1)
    assert send(service, click("u1", item, token)) == [("learned", None)]
    service.get("/v1/recommendations/u2")
    assert buffered(service) == 6
    assert impressions(service) == []
