"""`sluice restore-snapshot`, with the service up and down."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.factories import feed, make_engine, sessions
from tests.integration.service import Service, batches, sluice, until

StartService = Callable[..., Service]
EVENTS = sessions(900, n_users=80)


@pytest.fixture
def service(make_service: StartService) -> Service:
    """A service with a snapshot after 400 events and another after 600, of 900."""
    service = make_service().start()
    for end in (400, 600):
        for batch in batches(EVENTS[end - 400 if end == 400 else 400 : end], 100):
            service.learn(batch)
        service.post("/v1/snapshots")
    service.learn(EVENTS[600:])
    return service


def ids(service: Service) -> list[str]:
    """Return the ids of the snapshots, oldest first."""
    listed = service.get("/v1/snapshots")["snapshots"]
    return [snapshot["id"] for snapshot in reversed(listed)]


def restored(service: Service) -> list[Any]:
    """Return the records of restores."""
    decisions = service.get("/v1/decisions", n=1_000)["decisions"]
    return [decision for decision in decisions if decision["kind"] == "restore"]


def run(service: Service, *arguments: object, code: int = 0, answers: str = "") -> str:
    """Run a command beside the service; return what it says."""
    result = service.sluice("restore-snapshot", *arguments, answers=answers)
    assert result.exit_code == code, result.output
    if code:
        assert isinstance(result.exception, SystemExit)
    return result.output


def test_up_and_down_it_shows_the_same(service: Service) -> None:
    """Up or down, it says the same; looking, and what is refused, changes nothing."""
    old, new = ids(service)
    hashes = service.hashes()

    def said() -> list[str]:
        return [
            run(service, "list"),
            run(service, "show", new),
            run(service, "verify", old),
            run(service, "show", "1-1", code=2),
            run(service, "verify", "nonsense", code=2),
            run(service, "restore", "1-1", "--yes", code=2),
            run(service, "restore", code=2),
            run(service, "restore", old, "--at", "2026-01-01T00:00:00Z", code=2),
            run(service, "restore", "--at", "noon", code=2),
            run(service, "restore", "--at", "2001-01-01T00:00:00Z", code=2),
            run(service, "restore", old, "--whole", code=2),
            run(service, "restore", old, "--into", "elsewhere", code=2),
            run(service, "restore", old, "--whole", "--into", "no name", "--yes", code=2),
            run(service, "restore", old, "--whole", "--into", "default", "--yes", code=2),
        ]

    up = said()
    assert up[0].index(new) < up[0].index(old)
    assert "600" in up[0]
    assert "400" in up[0]
    assert "whole" in up[2]
    assert "there is no snapshot '1-1'" in up[3]
    assert "nonsense" in up[4]
    assert "noon" in up[8]
    assert "no name" in up[12]
    assert "has a log already" in up[13]
    assert service.hashes() == hashes
    service.kill()
    assert said() == up
    service.start()
    assert service.hashes() == hashes
    assert restored(service) == []


def test_it_asks_and_takes_no_for_an_answer(service: Service) -> None:
    """Without --yes it says what will change and asks; a no changes nothing."""
    old, _ = ids(service)
    cursor = service.get("/v1/model")["cursor"]
    said = run(service, "restore", old, answers="n\n", code=1)
    said = " ".join(said.split())
    assert "400 events" in said
    assert "Histories, catalogue and the events since then stay" in said
    assert service.get("/v1/model")["cursor"] == cursor
    run(service, "restore", old, answers="y\n")
    until(lambda: restored(service))


def test_with_the_service_up_it_goes_through_the_log(service: Service) -> None:
    """Beside a running service a restore is applied there, for good; events stay learned."""
    old, _ = ids(service)
    before = service.get("/v1/users/u1/history")
    run(service, "restore", old, "--yes", "--reason", "bad import")
    [decision] = until(lambda: restored(service))
    assert decision["evidence"]["snapshot"] == old
    assert (decision["asked_by"], decision["reason"]) == ("restore-snapshot", "bad import")
    assert service.get("/v1/users/u1/history") == before
    assert service.learn(EVENTS)["counts"]["duplicate"] == 900
    hashes = service.hashes()
    service.kill()
    service.start()
    assert service.hashes() == hashes
    assert restored(service) == [decision]


def test_with_the_service_down_the_next_start_applies_it(service: Service) -> None:
    """A restore without a service waits in the log: the same bytes as one with the service up."""
    old, _ = ids(service)
    service.kill()
    run(service, "restore", old, "--yes")
    service.start()
    [decision] = restored(service)
    assert decision["evidence"]["snapshot"] == old
    hashes = service.hashes()
    service.kill()
    service.start()
    assert service.hashes() == hashes


def test_at_a_time_it_takes_the_newest_until_then(service: Service) -> None:
    """--at takes the newest snapshot written until then."""
    old, new = (snapshot for snapshot in reversed(service.get("/v1/snapshots")["snapshots"]))
    run(service, "restore", "--at", old["written_at"], "--yes")
    until(lambda: len(restored(service)) == 1)
    run(service, "restore", "--at", "2099-01-01T00:00:00Z", "--yes")
    until(lambda: len(restored(service)) == 2)
    found = [decision["evidence"]["snapshot"] for decision in restored(service)]
    assert found == [new["id"], old["id"]]


def test_whole_brings_everything_back_elsewhere(service: Service) -> None:
    """--whole makes a namespace in which all is as it was then; the one before stays as it is."""
    old, _ = ids(service)
    hashes = service.hashes()
    service.kill()
    said = run(service, "restore", old, "--whole", "--into", "then", "--yes")
    assert "SLUICE_NAMESPACE=then" in said
    run(service, "restore", old, "--whole", "--into", "then", "--yes", code=2)
    service.settings["namespace"] = "then"
    service.start()
    assert service.get("/v1/model")["events"]["admitted"] == 400
    then = feed(make_engine(), EVENTS[:400], group=400)
    assert service.hashes() == then.hashes()
    assert service.learn(EVENTS[:500])["counts"]["learned"] == 100
    service.kill()
    service.start()
    assert service.get("/v1/model")["events"]["admitted"] == 500
    service.kill()
    service.settings["namespace"] = "default"
    service.start()
    assert service.hashes() == hashes


def test_a_damaged_one_is_not_restored(service: Service) -> None:
    """A snapshot that does not verify is refused before anything is in the log."""
    old, new = ids(service)
    with service.store() as store:
        for key in store.scan_iter(f"sluice:{{default}}:snapshot:{old}:*"):
            store.setrange(key, 100, b"\x00\x01\x02")
    cursor, hashes = service.get("/v1/model")["cursor"], service.hashes()
    for more in ((), ("--whole", "--into", "other")):
        said = run(service, "restore", old, "--yes", *more, code=2)
        assert f"snapshot {old}" in said
        assert "damaged" in said
    assert (service.get("/v1/model")["cursor"], service.hashes()) == (cursor, hashes)
    assert f"snapshot {new} builds on another one: snapshot {old}" in run(
        service, "verify", new, code=2
    )
    with service.store() as store:
        assert not list(store.scan_iter("sluice:{other}:*"))


def test_without_a_store_it_says_so(tmp_path: Path) -> None:
    """In a folder that is none of ours it says so, and makes nothing there."""
    result = sluice("restore-snapshot", "list", data_dir=str(tmp_path / "nothing"))
    assert result.exit_code == 2
    assert "there is no store in" in result.output
    assert not (tmp_path / "nothing").exists()
