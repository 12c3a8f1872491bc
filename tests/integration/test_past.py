"""Going back in time: what is rebuilt is what was, from snapshots, the log and the archive."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from app import archive
from app.events import format_time
from tests.factories import sessions
from tests.integration.service import (
    ROOT,
    Service,
    answer_of,
    batches,
    environment,
    error_of,
    small,
    until,
)

KEY, ADMIN_KEY = "a-key-for-tests", "an-admins-key"
# What a command says of a state is what the service said of it: `nobody` was never seen.
USERS = ("u1", "u2", "nobody")


class Moment(NamedTuple):
    """What the live service said at a cursor: its hashes, and what it recommended."""

    cursor: str
    hashes: dict[str, str]
    lists: dict[str, dict[str, Any]]


class Lived(NamedTuple):
    """A service with a past, and what it said meanwhile."""

    service: Service
    moments: list[Moment]
    folder: Path


def note(service: Service) -> Moment:
    """Ask a service for all that it says now."""
    lists = {user: service.get(f"/v1/recommendations/{user}", k=5, explain=True) for user in USERS}
    return Moment(service.get("/v1/model")["cursor"], service.hashes(), lists)


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lived]:
    """A service whose log was trimmed three times, each time with its archive before that."""
    folder = tmp_path_factory.mktemp("past")
    service = small(
        folder / "service",
        archive_dir=str(folder / "archive"),
        snapshots_keep=1,
        api_key=KEY,
        admin_key=ADMIN_KEY,
    ).start()
    service.client.headers["X-API-Key"] = ADMIN_KEY
    moments = [note(service)]
    for number, batch in enumerate(batches(sessions(1_200, n_users=60), 150)):
        service.learn(batch)
        moments.append(note(service))
        if number in (1, 3, 5):
            snapshot = service.post("/v1/snapshots")["id"]
        if number == 3:
            answer_of(service.client.put("/v1/items/g00i1", json={"categories": ["tea"]}))
            service.client.delete("/v1/users/u2")
            moments.append(note(service))
        if number == 4:
            service.post(f"/v1/snapshots/{snapshot}/restore", {"reason": "a test"})
            moments.append(note(service))
    yield Lived(service, moments, folder)
    service.close()


def replay(lived: Lived, *options: object, **settings: str) -> dict[str, Any]:
    """Replay the log, and return what --json has written."""
    out = lived.folder / "result.json"
    result = lived.service.sluice("replay", "--from-log", "--json", out, *options, **settings)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(out.read_bytes())
    return found


def refused(lived: Lived, *arguments: object, **settings: str) -> str:
    """Run a command that must refuse; return what it says."""
    result = lived.service.sluice(*arguments, **settings)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    return " ".join(result.output.split())


def hashes_of(found: dict[str, Any]) -> dict[str, str]:
    """Return the hashes of a result."""
    return {name: found[name] for name in ("model_hash", "state_hash")}


def test_every_past_state_is_the_one_that_was(lived: Lived) -> None:
    """At each cursor, before and after trims and a restore, the hashes are those of the live one.

    What no snapshot reaches comes from the archive.
    """
    for moment in lived.moments:
        found = replay(lived, "--until", moment.cursor)
        assert found["at"] == moment.cursor
        assert hashes_of(found) == moment.hashes
    assert len({moment.hashes["state_hash"] for moment in lived.moments}) == len(lived.moments)
    assert len(archive.files(lived.folder / "archive")) == 3


def test_the_beginning_proves_the_snapshots(lived: Lived) -> None:
    """Without any snapshot, even where the log restores one, the same bytes come out."""
    last = lived.moments[-1]
    usual, proof = replay(lived), replay(lived, "--from-beginning")
    assert hashes_of(usual) == hashes_of(proof) == last.hashes
    assert (usual["events"], proof["events"]) == (1_200, 1_200)
    assert usual["replayed"] < proof["replayed"] == 1_200
    assert usual["versions"] == proof["versions"]


def test_the_archive_alone_replays(lived: Lived) -> None:
    """An archive is replayed exactly, with no store; or as a data set, with other settings."""
    folder, service = lived.folder / "archive", lived.service
    last = archive.files(folder)[-1].last
    nowhere = str(lived.folder / "nowhere")
    exact = replay(lived, folder, data_dir=nowhere)
    assert exact["at"] == last
    assert hashes_of(exact) == hashes_of(replay(lived, "--until", last))
    result = service.sluice("replay", folder, "--gate", "off", data_dir=nowhere)
    assert result.exit_code == 0, result.output
    assert "750 events" in result.output  # the entry of the snapshot is in the log yet


def test_recommendations_of_then_are_those_that_were_given(lived: Lived) -> None:
    """Items, scores, reasons and model are what GET answered then."""
    for moment in (lived.moments[1], lived.moments[6], lived.moments[-1]):
        for user, then in moment.lists.items():
            options = ("--at", moment.cursor, "-k", 5, "--explain", "--json")
            result = lived.service.sluice("recommend", user, *options)
            assert result.exit_code == 0, result.output
            found = json.loads(result.stdout)
            assert found == {**then, "recommendation_id": None, "at": moment.cursor}


def test_over_http_it_is_the_same(lived: Lived) -> None:
    """GET with `at` answers what GET answered then, from the archive, too, held to its filters."""
    service = lived.service
    moment = lived.moments[2]
    then = moment.lists["u1"]
    found = service.get("/v1/recommendations/u1", k=5, explain=True, at=moment.cursor)
    assert found == {**then, "recommendation_id": None, "at": moment.cursor}
    options = {"exclude": ["g00i2", "--help"], "category": ["none", "tea"]}
    found = service.get("/v1/recommendations/--at", at=lived.moments[-2].cursor, **options)
    assert found["user_id"] == "--at"
    assert [item["item_id"] for item in found["items"]] == ["g00i1"]
    more = options | {"where": ["brand!=--x,1"], "category_none": ["hats"]}
    assert service.get("/v1/recommendations/--at", at=lived.moments[-2].cursor, **more) == found
    more["where"].append("price>=1")
    emptied = service.get("/v1/recommendations/--at", at=lived.moments[-2].cursor, **more)
    assert emptied["items"] == []


def test_for_people_there_is_a_table(lived: Lived) -> None:
    """Without --json it prints a list, with the time and the model; a time is as good a moment."""
    moment = lived.moments[3]
    when = format_time(int(moment.cursor.partition("-")[0]))
    result = lived.service.sluice("recommend", "u1", "--at", when, "--explain")
    assert result.exit_code == 0, result.output
    assert f"as of {moment.cursor} ({when})" in result.output
    assert moment.lists["u1"]["items"][0]["item_id"] in result.output
    assert f"model version {moment.lists['u1']['model']['version']}" in result.output


def test_what_is_not_kept_is_refused_with_a_sentence(lived: Lived) -> None:
    """Without the archive, a cursor before the snapshots is refused, and it says from where on."""
    moment, service = lived.moments[1], lived.service
    with service.store() as store:
        [[first, _]] = store.xrange("sluice:{default}:log", count=1)
    oldest = first.decode()
    said = refused(lived, "replay", "--from-log", "--until", moment.cursor, archive_dir="")
    assert f"the state at {moment.cursor}" in said
    assert f"the oldest that is, is {oldest}" in said
    restored = service.get("/v1/snapshots")["snapshots"][-1]["id"]
    assert restored < oldest  # kept for the restore, but the log does not go on from there
    assert hashes_of(replay(lived, "--until", restored, archive_dir=""))
    between = next(m.cursor for m in lived.moments if restored < m.cursor < oldest)
    said = refused(lived, "recommend", "u1", "--at", between, archive_dir="")
    assert f"the oldest that is, is {oldest}" in said
    assert "log begins at" in refused(
        lived, "replay", "--from-log", "--from-beginning", archive_dir=""
    )
    assert "is still to come" in refused(lived, "recommend", "u1", "--at", "2199-01-01T00:00:00Z")
    assert "the log ends at" in refused(lived, "recommend", "u1", "--at", "9999999999999-0")
    assert "neither a cursor" in refused(lived, "recommend", "u1", "--at", "noon")
    assert "name a data set" in refused(lived, "replay")
    assert "name a data set" in refused(lived, "replay", lived.folder, "--until", "1-1")
    assert "no archive of" in refused(lived, "replay", lived.folder, "--from-log")


def test_http_says_what_is_wrong(lived: Lived) -> None:
    """Malformed is 422, what is not kept or still to come 404, and no operator 403."""
    client, path = lived.service.client, "/v1/recommendations/u1"
    error_of(client.get(path, params={"at": "noon"}), 422)
    error_of(client.get(path, params={"at": "99999999999999999999-0"}), 422)
    assert "oldest" in error_of(client.get(path, params={"at": "1-1"}), 404)["message"]
    late = error_of(client.get(path, params={"at": "9999999999999-0"}), 404)
    assert "the log ends at" in late["message"]
    at = {"at": lived.moments[-1].cursor}
    for name in ("exclude", "category", "context.device"):
        error_of(client.get(path, params=at | {name: "a\0b"}), 422)
    error_of(client.get(path, params=at, headers={"X-API-Key": KEY}), 403)
    assert answer_of(client.get(path, headers={"X-API-Key": KEY}))["items"]


def test_it_is_one_at_a_time_and_ends_with_its_client(lived: Lived) -> None:
    """A second request meanwhile is 429; when the first client hangs up, its work is ended."""
    service, at = lived.service, lived.moments[-1].cursor
    ended = 'sluice_http_requests_total{route="GET /v1/recommendations/{user_id}",status="503"}'
    before = service.counter(ended)

    def probe(status: int) -> httpx.Response | None:
        found = service.client.get("/v1/recommendations/u1", params={"at": "1-1"})
        return found if found.status_code == status else None

    first = hang_on(service, f"/v1/recommendations/u1?at={at}")
    second = until(lambda: probe(429))
    assert second is not None
    assert error_of(second, 429)["code"] == "too_many_requests"
    assert second.headers["Retry-After"] == "1"
    first.close()
    until(lambda: probe(404))
    assert service.counter(ended) == before + 1
    assert "Traceback" not in service.log


def hang_on(service: Service, target: str) -> socket.socket:
    """Send a request and do not wait for the answer."""
    url = httpx.URL(service.url)
    connection = socket.create_connection((url.host, url.port or 80))
    request = f"GET {target} HTTP/1.1\r\nHost: {url.host}\r\nX-API-Key: {ADMIN_KEY}\r\n\r\n"
    connection.sendall(request.encode())
    return connection


def test_what_a_service_asked_for_ends_with_it(lived: Lived) -> None:
    """A list that a service has asked for is given up when that service dies: its stdin closes."""
    command = [sys.executable, "-m", "scripts.cli", "recommend", "u1", "--tied", "--json"]
    env = environment(**lived.service.settings)
    left = subprocess.run(
        command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    assert (left.returncode, left.stdout) == (1, b"")


def test_it_has_its_time_and_no_more(lived: Lived) -> None:
    """What takes longer than SLUICE_REBUILD_TIMEOUT_S is 503; with the service down it is had.

    And where no snapshot verifies, from the archive.
    """
    service, moment = lived.service, lived.moments[4]
    service.stop()
    assert hashes_of(replay(lived, "--until", moment.cursor)) == moment.hashes
    service.settings["rebuild_timeout_s"] = 0.001
    service.start()
    service.client.headers["X-API-Key"] = ADMIN_KEY
    answer = service.client.get("/v1/recommendations/u1", params={"at": moment.cursor})
    error = error_of(answer, 503)
    assert error["code"] == "rebuild_failed"
    assert "SLUICE_REBUILD_TIMEOUT_S" in error["message"]
    last = lived.moments[-1]
    assert service.hashes() == last.hashes
    with service.store() as store:
        for chunk in store.scan_iter("sluice:{default}:snapshot:*"):
            store.setrange(chunk, 100, b"\x00\x01\x02")
    found = replay(lived)
    assert (found["from"], hashes_of(found)) == ("0-0", last.hashes)
    assert "what came after the beginning is not kept" in refused(
        lived, "replay", "--from-log", archive_dir=""
    )
