"""GATE.md's first table, through HTTP: what is refused leaves not a byte behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.factories import sessions
from tests.integration.service import Service, batches, until, wire

StartService = Callable[..., Service]
NOW = time.time()


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that has learned 600 events up to now, and promoted some of it."""
    from tests.integration.service import small

    service = small(tmp_path_factory.mktemp("taught"), max_users=2_000).start()
    for batch in batches(sessions(600), 100):
        body = wire(batch)
        for place, event in enumerate(body):
            event["timestamp"] = NOW - 600 + (event["timestamp"] - 1_000_000_000)
            event["source"] = f"app-{place % 3}"
        service.post("/v1/feedback", body)
    assert service.get("/v1/model")["model"]["version"] > 1
    yield service
    service.close()


def good(**rest: Any) -> dict[str, Any]:
    """Return an event that would be learned, if it had no fault."""
    return {"user_id": "s0-1", "item_id": "g00i1", "type": "click", "timestamp": NOW} | rest


def test_duplicates_leave_both_hashes(taught: Service) -> None:
    """An id sent again, alone or in a batch, is a `duplicate`, never late."""
    first = [good(event_id=f"dup-{n}", timestamp=NOW - 80_000) for n in range(5)]
    assert taught.post("/v1/feedback", first)["counts"]["learned"] == 5
    before = taught.hashes()
    again = taught.post("/v1/feedback", first + first)
    assert again["counts"] == {"learned": 0, "duplicate": 10, "late": 0, "quarantined": 0}
    assert taught.post("/v1/feedback", first[0])["results"][0]["status"] == "duplicate"
    changed = good(event_id="dup-0", item_id="another", timestamp=NOW - 10**6)
    assert taught.post("/v1/feedback", changed)["results"][0]["status"] == "duplicate"
    assert taught.hashes() == before
    assert taught.get("/v1/model")["versions"]["shadow"]["prequential"]["judged"] > 0


def test_a_duplicate_is_one_after_the_watermark_moved(make_service: StartService) -> None:
    """What was learned long ago by event time is a duplicate when it comes again, not late."""
    service = make_service().start()
    old = {"event_id": "old", "user_id": "u", "item_id": "i", "type": "click", "timestamp": 10**9}
    service.post("/v1/feedback", old)
    service.post("/v1/feedback", old | {"event_id": "new", "timestamp": 10**9 + 10**6})
    before = service.hashes()
    assert service.post("/v1/feedback", old)["results"][0]["status"] == "duplicate"
    other = service.post("/v1/feedback", old | {"event_id": "other"})["results"][0]
    assert (other["status"], other["reason"]) == ("late", "late")
    assert service.hashes()["model_hash"] == before["model_hash"]


FAULTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "no type": ({"type": ""}, "quarantined", "schema"),
    "unknown type": ({"type": "stare"}, "quarantined", "unknown_type"),
    "rating without value": ({"type": "rating"}, "quarantined", "reward"),
    "rating out of range": ({"type": "rating", "value": 6}, "quarantined", "reward"),
    "huge rating": ({"type": "rating", "value": 1e308}, "quarantined", "reward"),
    "empty user": ({"user_id": ""}, "quarantined", "schema"),
    "empty item": ({"item_id": ""}, "quarantined", "schema"),
    "long id": ({"item_id": "x" * 7_000_000}, "quarantined", "schema"),
    "id with a control character": ({"item_id": "a\nb"}, "quarantined", "schema"),
    "number for an id": ({"user_id": 7}, "quarantined", "schema"),
    "list for an id": ({"item_id": ["a"]}, "quarantined", "schema"),
    "text for a value": ({"type": "rating", "value": "5"}, "quarantined", "schema"),
    "no time": ({"timestamp": "noon"}, "quarantined", "schema"),
    "from the future": ({"timestamp": NOW + 3_600}, "quarantined", "future"),
    "from the far future": ({"timestamp": 253_402_300_799}, "quarantined", "future"),
    "late": ({"timestamp": NOW - 2 * 86_400}, "late", "late"),
    "from 1970": ({"timestamp": 0}, "late", "late"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_leaves_the_model_hash(taught: Service, fault: str) -> None:
    """The model does not change by one byte; the reason is answered, counted and kept."""
    change, status, reason = FAULTS[fault]
    counter = f'sluice_events_total{{reason="{reason}",status="{status}"}}'
    before, counted = taught.hashes(), taught.counter(counter)
    answer = taught.post("/v1/feedback", good(event_id=f"fault {fault}") | change)
    [result] = answer["results"]
    assert (result["event_id"], result["status"], result["reason"]) == (
        f"fault {fault}",
        status,
        reason,
    )
    after = taught.hashes()
    assert after["model_hash"] == before["model_hash"]
    assert after["state_hash"] != before["state_hash"]
    assert taught.counter(counter) == counted + 1
    record = until(lambda: newest(taught, f"fault {fault}"))
    assert record
    assert record["reason"] == reason
    # And it may come again, whole: it was never admitted.
    if "id" not in fault and status != "late":
        assert (
            taught.post("/v1/feedback", good(event_id=f"fault {fault}"))["counts"]["learned"] == 1
        )


def newest(service: Service, event_id: str) -> dict[str, Any] | None:
    """Return the newest record of the quarantine, if it is this event's."""
    [record] = service.get("/v1/quarantine", n=1)["records"]
    found: dict[str, Any] = record
    return found if record["event"]["event_id"] == event_id else None


def test_out_of_order_is_learned_with_its_own_time(taught: Service) -> None:
    """Within the lateness an older event is learned, and put in the history in log order."""
    user = "out-of-order"
    for offset in (-10, -500, -80_000):
        event = good(user_id=user, item_id=f"ooo{offset}", timestamp=NOW + offset)
        assert taught.post("/v1/feedback", event)["counts"]["learned"] == 1
    history = taught.get(f"/v1/users/{user}/history")["events"]
    assert [e["item_id"] for e in history] == ["ooo-80000", "ooo-500", "ooo-10"]


def test_grouping_never_matters(make_service: StartService) -> None:
    """One POST of 1,000 events and 1,000 POSTs of one end in the same bytes."""
    one, many = make_service("one").start(), make_service("many").start()
    events = sessions(1_000)
    one.learn(events)
    for event in events:
        many.learn([event])
    assert one.hashes() == many.hashes()
