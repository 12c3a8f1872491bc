"""Users' features in somebody else's store: Redis hashes, and Feast with its Redis online store.

Feast needs older packages than ours: what needs it runs where a `feast` of an environment of its
own (`pip install 'feast[redis]'`) is on PATH, and is skipped elsewhere.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from app import events
from app.admission import Verdict
from app.embedded import find_server
from app.errors import SettingsError, StoreUnavailable
from app.events import Entry, Feedback
from app.feature_store import FeatureStore, Found, read_items
from app.features import Feature
from app.quarantine import record_of
from app.settings import Settings
from tests.integration.service import Service, environment, error_of, sluice, until
from tests.integration.stores import Node, free_ports

StartService = Callable[..., Service]
pytestmark = pytest.mark.anyio

FEATURES: dict[str, Any] = {
    "age": {"of": "user", "min": 0, "max": 100, "max_age_s": 3_600},
    "tier": {"of": "user", "values": ["gold", "lead"]},
    "format": {"of": "item", "values": ["short", "long"]},
}
MISSING = 'sluice_feature_missing_total{{feature="{}",reason="{}"}}'
READS = 'sluice_feature_reads_total{{outcome="{}"}}'


@pytest.fixture
def node() -> Iterator[Node]:
    """A Redis-protocol server that is somebody else's."""
    node = Node(find_server()).start()
    yield node
    node.close()


def url_of(node: Node) -> str:
    """Return the URL of a server."""
    return f"redis://127.0.0.1:{node.port}/0"


def opened(node: Node, **changes: Any) -> FeatureStore:
    """Return a reader of its hashes that waits for long, as tests are slow."""
    declared = {name: Feature(**feature) for name, feature in FEATURES.items()}
    told: dict[str, Any] = {
        "feature_timeout_ms": 5_000,
        "features": declared,
        "feature_store_url": url_of(node),
    }
    return FeatureStore(Settings(**(told | changes)))


async def test_hashes_are_read_as_they_are_declared(node: Node) -> None:
    """Declared fields are taken, numbers or text; others, and users without a hash, say nothing."""
    node.client.hset("features:u1", mapping={"age": "31.5", "tier": "gold", "secret": "x"})
    node.client.hset("features:u2", mapping={"tier": b"\xff" * 99})
    store = opened(node)
    try:
        assert await store.read("u1", 5) == Found({"age": "31.5", "tier": "gold"})
        found = await store.read_all(["u1", "u2", "u3", "u2", *(f"x{n}" for n in range(1_200))])
        assert len(found) == 1_203
        assert found["u1"].features["age"] == "31.5"
        assert len(str(found["u2"].features["tier"])) == 65
        assert found["u3"] == found["x1199"] == Found()
        assert store.n_reads == {"read": 1_203, "cached": 1}
    finally:
        await store.close()


async def test_a_key_that_is_no_hash_says_nothing(node: Node) -> None:
    """One user's key of another type is no failure of the store: others are read beside it."""
    node.client.set("features:odd", "no hash")
    node.client.hset("features:u", "age", 1)
    store = opened(node)
    try:
        found = await store.read_all(["odd", "u"])
        assert found == {"odd": Found(), "u": Found({"age": "1"})}
    finally:
        await store.close()


async def test_what_is_too_old_is_stale(node: Node) -> None:
    """With a timestamp in the hash, a feature past its `max_age_s` is not there, others are."""
    told = {"age": 31, "tier": "gold"}
    node.client.hset("features:old", mapping=told | {"timestamp": time.time() - 7_200})
    recent = datetime.now(UTC).isoformat()
    node.client.hset("features:new", mapping=told | {"timestamp": recent})
    node.client.hset("features:odd", mapping=told | {"timestamp": "yesterday"})
    store = opened(node)
    try:
        assert await store.read("old", 5) == Found({"tier": "gold"}, {"age": "stale"})
        assert await store.read("new", 5) == await store.read("odd", 5)
        assert (await store.read("odd", 5)).features == {"age": "31", "tier": "gold"}
    finally:
        await store.close()


async def test_what_was_read_is_used_again_for_a_while(node: Node) -> None:
    """Within the time that it is kept, a user is not asked for again; without any, each time."""
    node.client.hset("features:u", "age", 1)
    kept, fresh = opened(node, feature_cache_s=3_600), opened(node, feature_cache_s=0)
    try:
        for store in (kept, fresh):
            assert not store.is_known("u")
            await store.read("u", 5)
        node.client.hset("features:u", "age", 2)
        assert kept.is_known("u")
        assert (await kept.read("u", 5)).features == {"age": "1"}
        assert (await fresh.read("u", 5)).features == {"age": "2"}
    finally:
        await kept.close()
        await fresh.close()


async def test_nobody_waits_for_a_store_that_hangs(node: Node) -> None:
    """What comes too late is a timeout; its answer is there for who asks next."""
    node.client.hset("features:u", "age", 1)
    store = opened(node, feature_timeout_ms=1)
    try:
        node.signal(signal.SIGSTOP)
        found = await store.read("u", 5)
        assert found == Found({}, {"age": "timeout", "tier": "timeout"})
        node.signal(signal.SIGCONT)
        while store.known("u") is None:
            found = await store.read("u", 5)
        assert (await store.read("u", 5)).features == {"age": "1"}
    finally:
        node.signal(signal.SIGCONT)
        await store.close()


@pytest.mark.parametrize("what", ["gone", "locked"])
async def test_a_store_that_fails_is_left_alone_for_a_while(node: Node, what: str) -> None:
    """A read that fails is no error; nobody else tries then, and each is told at once."""
    if what == "gone":
        node.signal(signal.SIGKILL)
    else:
        node.client.config_set("requirepass", "not-for-us")
    store = opened(node)
    try:
        assert (await store.read("u", 5)).unread == {"age": "unavailable", "tier": "unavailable"}
        assert store.is_known("anybody")
        assert store.known("anybody") == await store.read("u", 5)
        assert (await store.read_all(["a", "b"]))["b"].unread["age"] == "unavailable"
    finally:
        await store.close()


# -- in a service -----------------------------------------------------------------------------


def taught(service: Service) -> Service:
    """Tell a service of items, and let the young take what is short."""
    items = [
        {"item_id": f"i{n}", "attributes": {"format": "short" if n % 2 else "long"}}
        for n in range(20)
    ]
    service.post("/v1/items", items)
    feedback = [
        {"user_id": f"u{n % 20}", "item_id": f"i{n * 7 // 20 % 10 * 2 + n % 2}", "type": "click"}
        for n in range(200)
    ]
    for start in range(0, 200, 50):
        assert service.post("/v1/feedback", feedback[start : start + 50])["counts"]["learned"] == 50
    return service


def shown(service: Service, user: str) -> list[str]:
    """Return a list, for which there is time."""
    answer = service.get(f"/v1/recommendations/{user}", k=6, deadline_ms=5_000)
    return [item["item_id"] for item in answer["items"]]


def n_short(items: list[str]) -> int:
    """Return how many of some items are short."""
    return sum(int(item[1:]) % 2 for item in items)


def test_features_are_read_for_lists_and_kept_with_events(
    make_service: StartService, node: Node
) -> None:
    """Lists know what is in the store; events have it in the log, so that a replay needs none."""
    for n in range(20):
        node.client.hset(f"features:u{n}", mapping={"age": 10 if n % 2 else 90})
    node.client.hset("features:young", mapping={"age": 11, "tier": "gold"})
    node.client.hset("features:old", mapping={"age": 88, "tier": "tin"})
    service = make_service(
        features=FEATURES, feature_store_url=url_of(node), feature_timeout_ms=5_000, gate="off"
    )
    taught(service.start())
    young, old = shown(service, "young"), shown(service, "old")
    assert n_short(young) > n_short(old)
    assert service.counter(MISSING.format("tier", "unknown")) == 1
    why = service.get("/v1/explain/young/i1", deadline_ms=5_000)["why"]
    assert {"user:age", "user:tier=gold"} >= {
        part["because"] for part in why if part["because"].startswith("user:")
    }
    assert shown(service, "young") == young
    assert service.counter(READS.format("cached")) >= 2
    with service.store() as log:
        pages: Any = log.xrange("sluice:{default}:log")
    logged = [
        record
        for _, fields in pages
        for record in events.decode(fields[b"e"]).records
        if isinstance(record, Feedback)
    ]
    assert len(logged) == 200
    assert all(event.features == {"age": "10" if i % 2 else "90"} for i, event in enumerate(logged))
    hashes = service.hashes()
    node.signal(signal.SIGKILL)
    service.kill()
    service.start()
    assert service.hashes() == hashes


def test_a_service_goes_on_without_the_store(make_service: StartService, node: Node) -> None:
    """With the store hanging, then gone, lists and events go on, and it is counted.

    A list waits for half of its deadline at most, however long the store may take.
    """
    service = make_service(
        features=FEATURES,
        feature_store_url=url_of(node),
        feature_cache_s=0,
        feature_timeout_ms=60_000,
    ).start()
    service.post("/v1/items", [{"item_id": f"i{n}"} for n in range(20)])
    node.signal(signal.SIGSTOP)
    assert service.get("/v1/recommendations/u", deadline_ms=1_500)["items"]
    assert service.counter(MISSING.format("age", "timeout")) == 1
    assert service.counter(READS.format("timeout")) == 1
    node.signal(signal.SIGCONT)
    node.signal(signal.SIGKILL)
    until(lambda: shown(service, "u") and service.counter(MISSING.format("age", "unavailable")))
    event = {"user_id": "u", "item_id": "i1", "type": "click"}
    assert service.post("/v1/feedback", event)["counts"]["learned"] == 1
    assert "the feature store does not answer" in service.log


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"feature_store_url": "http://x"}, "must begin with one of redis://"),
        ({"feature_store_url": "feast+http://x:1"}, "name a feature service"),
        ({"feature_store_url": "redis://x", "feature_key": "f"}, "needs {user_id} in it"),
        ({"feature_store_url": "redis://x", "features": {}}, "declares no feature of a user"),
    ],
)
def test_settings_that_read_nothing_are_refused(told: dict[str, Any], why: str) -> None:
    """A store that cannot be one, or of which nothing is wanted, is refused at the start."""
    with pytest.raises(ValueError, match=re.escape(why)):
        Settings(**({"features": FEATURES} | told))


# -- Feast ------------------------------------------------------------------------------------

OF_ITEMS: dict[str, Any] = {
    "format": {"of": "item", "values": ["short", "long"]},
    "minutes": {"of": "item", "min": 0, "max": 180},
    "age": {"of": "user", "min": 0, "max": 100},
}


def attributes(service: Service) -> dict[str, dict[str, Any]]:
    """Return the attributes of all items, without those that have none."""
    items = service.get("/v1/items", n=1_000)["items"]
    return {
        i["item_id"]: {n: v for n, v in i["attributes"].items() if v is not None} for i in items
    }


def test_what_hashes_say_of_items_becomes_attributes(
    make_service: StartService, node: Node
) -> None:
    """Items get the features declared of items; what is stale, odd or gone is taken away again."""
    told = {"features": OF_ITEMS, "feature_store_url": url_of(node)}
    service = make_service(**told, max_items=1_200).start()
    items = [{"item_id": f"i{n}", "attributes": {"brand": "acme"}} for n in range(1_100)]
    service.post("/v1/items", {"items": items})

    def imported() -> str:
        named = ("--key", "film:{item_id}", "--url", service.url, "--max-age-s", 3_600)
        result = service.sluice("import-features", *named)
        assert result.exit_code == 0, result.output
        return str(result.output)

    node.client.hset("film:i1", mapping={"format": "short", "minutes": "8.5", "age": 3})
    node.client.hset("film:i1099", mapping={"format": "7", "minutes": "ninety"})
    node.client.hset("film:i3", mapping={"minutes": "1e30"})
    node.client.hset("film:i2", mapping={"minutes": 90, "timestamp": time.time() - 7_200})
    assert "2 of 1,100 items changed" in imported()
    found = attributes(service)
    assert found["i1"] == {"brand": "acme", "format": "short", "minutes": 8.5}
    assert found["i2"] == {"brand": "acme"}
    before = service.get("/v1/model")["cursor"]
    assert "0 of 1,100 items changed" in imported()
    assert service.get("/v1/model")["cursor"] == before
    node.client.delete("film:i1")
    assert "1 of 1,100 items changed" in imported()
    assert attributes(service)["i1"] == {"brand": "acme"}


def test_features_are_imported_again_and_again(
    make_service: StartService, node: Node, tmp_path: Path
) -> None:
    """With --every, a round that fails is told, and the next one brings what is new."""
    settings = {"features": OF_ITEMS, "feature_store_url": url_of(node)}
    service = make_service(**settings).start()
    service.post("/v1/items", {"items": [{"item_id": "i1"}]})

    def is_format(value: str) -> bool:
        return attributes(service)["i1"].get("format") == value

    command = [sys.executable, "-m", "scripts.import_features", "--key", "film:{item_id}"]
    command += ["--url", service.url, "--every", "0.1"]
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment(**settings), stdout=out, stderr=out)
    try:
        node.client.hset("film:i1", "format", "short")
        until(lambda: is_format("short"))
        node.signal(signal.SIGKILL)
        until(lambda: "; once more in 0.1 s" in log.read_text())
        node.start().client.hset("film:i1", "format", "long")
        until(lambda: is_format("long"))
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def test_an_import_of_features_says_what_it_lacks(node: Node) -> None:
    """Without features of items, a store, or an id in the key, it says so; so does a dead store."""
    ends = {
        "no feature of items": sluice("import-features", "--store", url_of(node)),
        "--store": sluice("import-features", features=OF_ITEMS),
        "{item_id}": sluice(
            *("import-features", "--store", url_of(node), "--key", "film"), features=OF_ITEMS
        ),
        "redis://": sluice("import-features", "--store", "ftp://x", features=OF_ITEMS),
    }
    for text, result in ends.items():
        assert result.exit_code == 2, result.output
        assert text in result.output


async def test_a_store_of_items_that_is_down_is_named() -> None:
    """What cannot be read is an error of a command, not a catalogue without features."""
    declared = {name: Feature(**feature) for name, feature in OF_ITEMS.items()}
    [port] = free_ports(1)
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await read_items(f"redis://127.0.0.1:{port}", "film:{item_id}", ["i1"], declared)


class _Feast(ThreadingHTTPServer):
    """Whoever answers as Feast's feature server does: every user is of one age and tier."""

    def __init__(self, age: Any, tier: Any, on_asked: Callable[[], object]) -> None:
        super().__init__(("127.0.0.1", 0), _FeastAnswer)
        self.on_asked = on_asked
        self.asked_by: list[str | None] = []
        self.told = {"age": age, "tier": tier, "format": age, "minutes": age}
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"feast+http://127.0.0.1:{self.server_port}/shop"


class _FeastAnswer(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        """Say the same of all."""
        assert isinstance(self.server, _Feast)
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.on_asked()
        self.server.asked_by.append(self.headers["Authorization"])
        if asked["feature_service"] != "shop":
            self.send_error(404)
            return
        [ids] = asked["entities"].values()
        n, told = len(ids), self.server.told
        columns = [
            {"values": [v] * n, "statuses": ["PRESENT"] * n, "event_timestamps": [None] * n}
            for v in told.values()
        ]
        answer = json.dumps({"metadata": {"feature_names": list(told)}, "results": columns})
        self.send_response(200)
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, *about: Any) -> None:
        """Say nothing."""


@contextmanager
def told_by_feast(
    age: Any, tier: Any, on_asked: Callable[[], object] = lambda: None
) -> Iterator[str]:
    """Yield the URL of a feature server that says one thing of all, after `on_asked`."""
    server = _Feast(age, tier, on_asked)
    try:
        yield server.url
    finally:
        server.shutdown()
        server.server_close()


async def test_whatever_a_store_says_the_log_can_hold_it() -> None:
    """Numbers past all bounds and broken texts are in log and quarantine as they went in."""
    age = Feature(**FEATURES["age"])
    meant = {
        10**30: 100.0,
        10**400: 100.0,
        -(10**4_299): 0.0,
        math.inf: 100.0,
        math.nan: "not_a_number",
        7: 7.0,
    }
    for said, kept in meant.items():
        with told_by_feast(said, "\ud800" * 99) as url:
            declared = {name: Feature(**feature) for name, feature in FEATURES.items()}
            settings = Settings(features=declared, feature_store_url=url, feature_timeout_ms=5_000)
            store = FeatureStore(settings)
            try:
                given = dict((await store.read("u", 5)).features)
            finally:
                await store.close()
        event = Feedback("e", "u", "i", "click", None, None, features=given)
        assert events.decode(events.encode(Entry([event]))).records == [event]
        assert orjson.loads(record_of(event, Verdict("quarantined")))["event"]["features"] == given
        assert age.keep(given["age"]) == kept
        assert given["tier"] == "?" * 65


async def test_a_password_goes_to_the_store_alone() -> None:
    """Who the URL names is who asks; an error names neither them nor their password."""
    declared = {"minutes": Feature(of="item", min=0, max=100)}
    server = _Feast(7, "gold", lambda: None)
    url = server.url.replace("//", "//ana:s%40cret@")
    try:
        found = await read_items(url, "{item_id}", ["i"], declared)
        with pytest.raises(StoreUnavailable, match="404") as caught:
            await read_items(f"{url}-of-others", "{item_id}", ["i"], declared)
    finally:
        server.shutdown()
        server.server_close()
    assert found == [{"minutes": 7}]
    assert server.asked_by == [f"Basic {b64encode(b'ana:s@cret').decode()}"] * 2
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize("url", ["feast+http://x:port/s", "feast+http://[::1/s", "redis://x:port"])
async def test_a_url_of_nothing_is_named(url: str) -> None:
    """A URL that nobody can ask is an error in the settings, with what is wrong."""
    with pytest.raises(SettingsError, match=r"SLUICE_FEATURE_STORE_URL: .*([Pp]ort|IPv6)"):
        await read_items(url, "{item_id}", ["i"], {})


def test_a_read_is_no_line_of_the_log(make_service: StartService) -> None:
    """However many lists ask Feast, none of it is logged."""
    with told_by_feast(7, "gold") as url:
        service = make_service(
            features=FEATURES, feature_store_url=url, feature_timeout_ms=5_000, feature_cache_s=0
        ).start()
        before = service.log
        service.get("/v1/recommendations/u", deadline_ms=60_000)
        until(lambda: service.counter(READS.format("read")))
        assert service.log == before


def test_an_item_may_go_while_features_are_read(make_service: StartService) -> None:
    """What is explained is an item that is there when it is explained, or it is a 404."""
    deleted: list[httpx.Response] = []

    def delete() -> None:
        deleted.append(httpx.delete(f"{service.url}/v1/items/i1"))

    with told_by_feast(7, "gold", delete) as url:
        service = make_service(
            features=FEATURES, feature_store_url=url, feature_timeout_ms=60_000
        ).start()
        service.post("/v1/items", [{"item_id": f"i{n}"} for n in range(20)])
        path, patient = "/v1/explain/u/i1", {"deadline_ms": 60_000}
        error_of(service.client.get(path, params=patient), 404)
    assert [answer.status_code for answer in deleted] == [200]


async def test_what_is_said_of_items_fits_attributes() -> None:
    """A value means as an attribute what it means itself; a number that is none there is left."""
    declared = {
        "format": Feature(of="item", values=("true", "3")),
        "minutes": Feature(of="item", min=0, max=100),
    }
    fits = {True: ("true", True), 3.0: ("3", 3.0), 10**30: (str(10**30), None)}
    for said, (of_values, number) in fits.items():
        with told_by_feast(said, None) as url:
            found = await read_items(url, "{item_id}", ["i"], declared)
        assert found == [{"format": of_values, "minutes": number}]


_REPOSITORY = """
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource
from feast.types import Float64, String
from feast.value_type import ValueType

customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.STRING)
source = FileSource(path="customers.parquet", timestamp_field="event_timestamp")
customers = FeatureView(
    name="customers",
    entities=[customer],
    ttl=timedelta(days=30),
    schema=[Field(name="age", dtype=Float64), Field(name="tier", dtype=String)],
    source=source,
)
for_sluice = FeatureService(name="for_sluice", features=[customers])
"""


@contextmanager
def feast_server(folder: Path, node: Node) -> Iterator[str]:
    """Run Feast's feature server over an online store in Redis; yield where it listens."""
    feast = shutil.which("feast")
    if feast is None:
        pytest.skip("no feast on PATH (pip install 'feast[redis]' in an environment of its own)")
    [port] = free_ports(1)
    (folder / "customers.py").write_text(_REPOSITORY)
    (folder / "feature_store.yaml").write_text(
        "project: shop\nprovider: local\nregistry: registry.db\noffline_store: {type: file}\n"
        "entity_key_serialization_version: 3\nonline_store:\n  type: redis\n"
        f"  connection_string: 127.0.0.1:{node.port}\n"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    env |= {"FEAST_USAGE": "False", "HOME": str(folder)}
    subprocess.run([feast, "apply"], cwd=folder, env=env, check=True, capture_output=True)
    with (folder / "serve.log").open("wb") as log:
        command = [feast, "serve", "--port", str(port)]
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def is_up(url: str) -> bool:
    """Tell whether Feast's server answers."""
    try:
        return httpx.get(f"{url}/health", trust_env=False).is_success
    except httpx.TransportError:
        return False


def test_features_are_read_from_feast(
    make_service: StartService, node: Node, tmp_path: Path
) -> None:
    """Through Feast's server, what its online store in Redis says decides a list; old is stale."""
    repository = tmp_path / "feast"
    repository.mkdir()
    with feast_server(repository, node) as url:
        until(lambda: is_up(url), within_s=90)
        n, now = 20, datetime.now(UTC)
        times = [now] * 22 + [now - timedelta(hours=2)]
        ages = [10.0 if i % 2 else 90.0 for i in range(n)]
        rows = {
            "customer_id": [*(f"u{i}" for i in range(n)), "young", "old", "stale"],
            "age": [*ages, 11.0, 88.0, 50.0],
            "tier": [*(["lead"] * n), "gold", None, "lead"],
            "event_timestamp": [at.isoformat(timespec="seconds") for at in times],
        }
        written = {"feature_view_name": "customers", "df": rows}
        answer = httpx.post(f"{url}/write-to-online-store", json=written, trust_env=False)
        assert answer.is_success, answer.text
        store = f"feast+{url}/for_sluice?entity=customer_id"
        of_items = {"age": Feature(of="item", min=0, max=100)}
        told = asyncio.run(read_items(store, "{item_id}", ["u1", "nobody"], of_items))
        assert told == [{"age": 10.0}, {"age": None}]
        service = make_service(
            features=FEATURES,
            feature_store_url=store,
            feature_timeout_ms=20_000,
            gate="off",
        )
        taught(service.start())
        assert n_short(shown(service, "young")) > n_short(shown(service, "old"))
        assert service.counter(MISSING.format("tier", "missing")) == 1
        assert shown(service, "stale")
        assert service.counter(MISSING.format("age", "stale")) == 1
        assert shown(service, "nobody")
        assert service.counter(MISSING.format("age", "missing")) == 1
        assert service.counter(READS.format("read")) == n + 4
