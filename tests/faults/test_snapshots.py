"""Snapshots that are damaged in the store: refused by name, and the next older good one is used."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import redis

from tests.factories import mixed
from tests.integration.service import Service, batches, error_of

StartService = Callable[..., Service]
Damage = Callable[[redis.Redis, str], None]
EVENTS = mixed(900)
MANIFESTS = "sluice:{default}:snapshots"


def record(store: redis.Redis, snapshot_id: str) -> dict[str, Any]:
    """Return what the store has of a snapshot: manifest and names of the chunks."""
    found: Any = store.hget(MANIFESTS, snapshot_id)
    loaded: dict[str, Any] = json.loads(found)
    return loaded


def replace(store: redis.Redis, snapshot_id: str, **changes: Any) -> None:
    """Change fields of a manifest."""
    whole = record(store, snapshot_id)
    whole["manifest"] |= changes
    store.hset(MANIFESTS, snapshot_id, json.dumps(whole))


def flip_a_byte(store: redis.Redis, snapshot_id: str) -> None:
    """Flip one bit in the middle of a chunk."""
    [key, *_] = record(store, snapshot_id)["chunks"]
    chunk: Any = store.get(key)
    middle = len(chunk) // 2
    store.setrange(key, middle, bytes([chunk[middle] ^ 1]))


def lose_a_chunk(store: redis.Redis, snapshot_id: str) -> None:
    """Delete a chunk."""
    store.delete(record(store, snapshot_id)["chunks"][-1])


def cut_a_chunk(store: redis.Redis, snapshot_id: str) -> None:
    """Leave half of a chunk."""
    [key, *_] = record(store, snapshot_id)["chunks"]
    chunk: Any = store.get(key)
    store.set(key, chunk[: len(chunk) // 2])


def make_it_newer(store: redis.Redis, snapshot_id: str) -> None:
    """Let it be of a later format, of which only the id is sure to be there."""
    whole = record(store, snapshot_id)
    whole["manifest"] = {"id": snapshot_id, "format": 99, "news": [1, 2]}
    store.hset(MANIFESTS, snapshot_id, json.dumps(whole))


DAMAGES: dict[str, tuple[Damage, str]] = {
    "byte flipped": (flip_a_byte, "chunk 1 of 1 is damaged"),
    "chunk missing": (lose_a_chunk, "chunk 1 of 1 is missing"),
    "chunk cut": (cut_a_chunk, "chunk 1 of 1 is damaged"),
    "newer format": (make_it_newer, "has format 99"),
    "no format": (lambda s, i: replace(s, i, format=None), "has format None"),
    "other semantics": (lambda s, i: replace(s, i, semantics=99), "checksum"),
    "manifest changed": (lambda s, i: replace(s, i, n_events=1), "checksum"),
    "arrays as text": (lambda s, i: replace(s, i, arrays="many"), "checksum"),
    "no JSON": (lambda s, i: _set(s, i, b"{"), "manifest"),
    "no text": (lambda s, i: _set(s, i, b"\xff\x00"), "manifest"),
    "a list": (lambda s, i: _set(s, i, b"[]"), "manifest"),
    "empty": (lambda s, i: _set(s, i, b"{}"), "manifest"),
    "null": (lambda s, i: _set(s, i, b'{"manifest": null, "chunks": null}'), "manifest"),
}


def _set(store: redis.Redis, snapshot_id: str, value: bytes) -> None:
    store.hset(MANIFESTS, snapshot_id, value)


def test_each_damage_is_refused_by_name(make_service: StartService) -> None:
    """Whatever was done to the newest snapshots, the start uses the newest good one, and says so.

    readyz and the log name each that was refused, and why; nothing is lost.
    """
    service = make_service(snapshots_keep=100).start()
    ids = []
    parts = batches(EVENTS, len(EVENTS) // (len(DAMAGES) + 2) + 1)
    for batch in parts:
        service.learn(batch)
        ids.append(service.post("/v1/snapshots")["id"])
    good, *bad = ids[-len(DAMAGES) - 1 :]
    hashes = service.hashes()
    with service.store() as store:
        for snapshot_id, (damage, _) in zip(bad, DAMAGES.values(), strict=True):
            damage(store, snapshot_id)
    service.kill()
    service.start()
    refused = service.get("/readyz")["refused_snapshots"]
    assert len(refused) == len(DAMAGES)
    reasons = dict(zip(bad, (why for _, why in DAMAGES.values()), strict=True))
    for line, snapshot_id in zip(reversed(refused), bad, strict=True):
        assert snapshot_id in line
        # What is wrong may be wrong with what it builds on, which is named after it.
        culprit = max((id_ for id_ in bad if id_ in line), key=line.rfind)
        assert reasons[culprit] in line
        assert f"refused at start: {line}" in service.log
    assert f"restored snapshot {good}" in service.log
    assert "Traceback" not in service.log
    assert service.hashes() == hashes
    assert service.get("/v1/snapshots")["refused"] == refused
    for snapshot_id in bad:
        answer = service.client.get(f"/v1/snapshots/{snapshot_id}")
        assert answer.status_code in (200, 409), answer.text
        body = {"reason": "a test asks"}
        answer = service.client.post(f"/v1/snapshots/{snapshot_id}/restore", json=body)
        assert error_of(answer, 409)["code"] == "snapshot_refused"
        shown = service.sluice("restore-snapshot", "verify", snapshot_id)
        assert (shown.exit_code, snapshot_id in shown.output) == (2, True)
    assert service.hashes() == hashes
    assert service.sluice("restore-snapshot", "list").exit_code == 0


def test_a_damaged_snapshot_is_written_anew(make_service: StartService) -> None:
    """Asked for a snapshot where a damaged one stands, the service writes one that verifies."""
    service = make_service().start()
    service.learn(EVENTS[:300])
    service.post("/v1/snapshots")
    service.learn(EVENTS[300:400])
    snapshot_id = service.post("/v1/snapshots")["id"]
    with service.store() as store:
        flip_a_byte(store, snapshot_id)
    service.kill()
    service.start()
    assert service.post("/v1/snapshots")["id"] == snapshot_id
    assert service.sluice("restore-snapshot", "verify", snapshot_id).exit_code == 0


def test_without_any_good_one_the_whole_log_is_replayed(make_service: StartService) -> None:
    """When the only snapshot is damaged and the log is whole, the start replays all of it."""
    service = make_service().start()
    service.learn(EVENTS[:300])
    hashes = service.hashes()
    with service.store() as store:
        floor: Any = store.get("sluice:{default}:log:floor")
    assert floor is None
    service.kill()
    service.start()
    assert service.hashes() == hashes


def test_without_log_and_snapshot_it_does_not_start(make_service: StartService) -> None:
    """When the log was trimmed and no snapshot verifies, the start stops and says both."""
    service = make_service(snapshots_keep=1).start()
    service.learn(EVENTS[:300])
    snapshot_id = service.post("/v1/snapshots")["id"]
    with service.store() as store:
        flip_a_byte(store, snapshot_id)
    service.kill()
    service.launch()
    assert service.wait() != 0
    assert f"snapshot {snapshot_id}: chunk 1 of 1 is damaged" in service.log
    assert "no snapshot verifies" in service.log
    assert "Traceback" not in service.log


@pytest.mark.parametrize("n_kept", [1, 5])
def test_a_restored_snapshot_is_kept(make_service: StartService, n_kept: int) -> None:
    """As long as the log has a command that restores a snapshot, it stays, and a start finds it."""
    service = make_service(snapshots_keep=n_kept).start()
    service.learn(EVENTS[:300])
    chosen = service.post("/v1/snapshots")["id"]
    service.learn(EVENTS[300:400])
    newer = service.post("/v1/snapshots")["id"]
    if n_kept == 1:
        error_of(service.client.get(f"/v1/snapshots/{chosen}"), 404)
        chosen = newer
    service.post(f"/v1/snapshots/{chosen}/restore", {"reason": "a test asks"})
    hashes = service.hashes()
    service.kill()
    service.start()
    assert service.hashes() == hashes
    for batch in batches(EVENTS[400:500], 50):
        service.learn(batch)
        service.post("/v1/snapshots")
    hashes = service.hashes()
    service.kill()
    service.start()
    assert service.hashes() == hashes
