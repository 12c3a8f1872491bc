"""Forgetting a user exactly: as if they had never been here, in every place."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app import events
from app.engine import Engine
from app.events import Configure, Entry
from app.settings import EngineSettings
from tests.factories import mixed
from tests.integration.service import Service, batches, until, wire

StartService = Callable[..., Service]
WHO = "forget-me-5f2c"
SECRET = WHO.encode()


def visit(service: Service, n: int, kinds: tuple[str, ...] = ("like", "odd")) -> None:
    """Let the user click, rate what cannot be rated, be described, and log in after a while."""
    mine = [
        {"event_id": f"mine-{n}-{i}", "user_id": WHO, "item_id": f"i{i % 9}", "type": kind}
        for i, kind in enumerate(["click", "like", "nonsense", "click", "purchase"])
    ]
    service.post("/v1/feedback", mine)
    service.post("/v1/feedback", [{"user_id": WHO, "item_id": 5, "type": "click"}])
    service.client.put(f"/v1/users/{WHO}", json={"attributes": {"n": n}})
    anonymous = f"{WHO}-before-login-{n}"  # another id, which has this one in its name
    seen = [{"user_id": anonymous, "item_id": f"i{n}", "type": kind} for kind in kinds]
    service.post("/v1/feedback", seen)
    service.post(f"/v1/users/{WHO}/merge", {"from": anonymous})


def entries(service: Service) -> dict[str, Entry]:
    """Return the log as it is in the store."""
    with service.store() as store:
        found: Any = store.xrange("sluice:{default}:log")
    return {cursor.decode(): events.decode(fields[b"e"]) for cursor, fields in found}


def run_without(log: dict[str, Entry]) -> dict[str, str]:
    """Return the hashes of a run in which the user never was."""
    first = next(iter(log.values())).records[0]
    assert isinstance(first, Configure)
    engine = Engine(EngineSettings(**first.settings))
    states: dict[str, Any] = {}
    named = {getattr(r, "snapshot_id", None) for entry in log.values() for r in entry.records}
    for cursor, entry in log.items():
        kept = [r for r in entry.records if SECRET not in events.encode(Entry([r]))]
        [wanted] = {getattr(r, "snapshot_id", None) for r in kept} or {None}
        engine.apply(Entry(kept, entry.arrival_ms), cursor, states.get(wanted or ""))
        if cursor in named:
            states[cursor] = Engine.from_state(engine.state()).state()
    return engine.hashes()


def is_named_anywhere(service: Service) -> list[str]:
    """Return where the user's id still is: keys of the store, and files of the service."""
    found = []
    with service.store() as store:
        for key in store.scan_iter():
            kind: Any = store.type(key)
            readers: dict[bytes, Any] = {
                b"string": store.get,
                b"stream": store.xrange,
                b"hash": store.hgetall,
            }
            if SECRET in repr(readers[kind](key)).encode():
                found.append(key.decode())
    files = [path for path in (service.folder / "data").rglob("*") if path.is_file()]
    return found + [str(path) for path in files if SECRET in path.read_bytes()]


def forget(service: Service, *options: str) -> str:
    """Forget the user, while the service goes on; return what was said."""
    result = service.sluice("forget", WHO, "--yes", *options)
    assert result.exit_code == 0, result.output
    return result.output


def has_forgotten(service: Service) -> bool:
    """Tell whether the service does not know the user."""
    return service.client.get(f"/v1/users/{WHO}").status_code == 404


def test_as_if_they_had_never_been_here(make_service: StartService, tmp_path: Path) -> None:
    """State, log, quarantine, snapshots and files are those of a run without the user."""
    service = make_service(archive_dir=str(tmp_path / "archive")).start()
    log: dict[str, Entry] = {}
    parts = batches(mixed(900), 100)
    for n, batch in enumerate(parts):
        service.learn(batch)
        visit(service, n)
        if n == 3:
            log |= entries(service)
            chosen = service.post("/v1/snapshots")["id"]  # what is before it goes into the archive
        if n == 6:
            service.post(f"/v1/snapshots/{chosen}/restore", {"reason": "a test asks"})
    service.post("/v1/snapshots")
    assert is_named_anywhere(service)
    log |= entries(service)
    expected = run_without(log)
    assert service.hashes() != expected
    said = forget(service, "--exact")
    assert expected["model_hash"] in said
    until(lambda: service.hashes() == expected)
    assert has_forgotten(service)
    assert is_named_anywhere(service) == []
    again = service.sluice("replay", "--from-log", "--from-beginning")
    assert expected["state_hash"] in again.output
    service.learn(mixed(950)[900:])
    hashes = service.hashes()
    service.kill()
    assert service.start().hashes() == hashes


def test_while_others_go_on(make_service: StartService) -> None:
    """Posts go on meanwhile, refused for a moment at most; what was acknowledged is there, once."""
    service = make_service().start()
    service.learn(mixed(600))
    visit(service, 1)
    is_over, acknowledged = threading.Event(), []

    def post() -> None:
        with service.another().client as client:
            n = 0
            while not is_over.is_set():
                n += 1
                event = {"event_id": f"on-{n}", "user_id": f"o{n}", "item_id": "x", "type": "click"}
                if client.post("/v1/feedback", json=event).is_success:
                    acknowledged.append(event)
                assert client.get("/v1/recommendations/other").status_code == 200

    poster = threading.Thread(target=post)
    poster.start()
    try:
        until(lambda: len(acknowledged) > 20)
        forget(service, "--exact")
        n = len(acknowledged)
        until(lambda: len(acknowledged) > n + 20)
    finally:
        is_over.set()
        poster.join(30)
    assert has_forgotten(service)
    counts = service.post("/v1/feedback", acknowledged)["counts"]
    assert counts["duplicate"] == len(acknowledged)
    assert run_without(entries(service)) == service.hashes()


@pytest.mark.parametrize("with_archive", [True, False])
def test_where_the_beginning_is_gone(
    make_service: StartService, tmp_path: Path, *, with_archive: bool
) -> None:
    """From the archive it is exact all the same; without, it says so, and names nobody any more."""
    archive = tmp_path / "archive"
    settings = {"archive_dir": str(archive)} if with_archive else {}
    service = make_service(snapshots_keep=1, **settings).start()
    for n, batch in enumerate(batches(mixed(600), 100)):
        service.learn(batch)
        # Without a log from then, nothing tells whose an event was that nobody learned.
        visit(service, n, ("like", "odd") if with_archive else ("like",))
        service.post("/v1/snapshots")
    service.post("/v1/feedback", wire(mixed(650)[600:]))
    assert not isinstance(next(iter(entries(service).values())).records[0], Configure)
    said = forget(service, "--exact")
    assert ("NOT exact" in said) != with_archive
    until(lambda: has_forgotten(service))
    assert is_named_anywhere(service) == []
    if with_archive:
        assert list(archive.glob("*.parquet"))
        assert all(SECRET not in path.read_bytes() for path in archive.iterdir())
        again = service.sluice("replay", "--from-log", "--from-beginning")
        assert service.hashes()["state_hash"] in again.output


def test_at_once_it_is_an_entry(make_service: StartService) -> None:
    """Without --exact the user goes by an entry of the log, and what they taught stays."""
    service = make_service().start()
    visit(service, 1)
    assert not has_forgotten(service)
    assert "forgotten from" in forget(service)
    until(lambda: has_forgotten(service))
