"""The store over what people run it on: TLS, users, sentinels, a cluster, copies that confirm."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from app.errors import SettingsError, StoreUnavailable
from app.settings import Settings
from app.store import BEGINNING, Store
from tests.integration.service import until
from tests.integration.stores import NAME, Node, cluster, nodes, watched

pytestmark = pytest.mark.anyio

OpenStore = Callable[..., Awaitable[Store]]
PASSWORD = "correct-horse-battery"
SENTINEL_PASSWORD = "staple-of-another-kind"
AOF = ("--appendonly", "yes")


class Certificates(NamedTuple):
    """Files of an authority, and of one certificate by it for 127.0.0.1, for server and client."""

    ca: Path
    cert: Path
    key: Path

    @property
    def server_options(self) -> tuple[str, ...]:
        """What a server needs to speak TLS, with its peers, too."""
        files = ("--tls-ca-cert-file", str(self.ca), "--tls-cert-file", str(self.cert))
        return (*files, "--tls-key-file", str(self.key), "--tls-replication", "yes")

    @property
    def login(self) -> dict[str, Any]:
        """What a plain client needs."""
        return {
            "ssl": True,
            "ssl_ca_certs": str(self.ca),
            "ssl_certfile": str(self.cert),
            "ssl_keyfile": str(self.key),
        }

    @property
    def query(self) -> str:
        """What a URL needs."""
        return f"ssl_ca_certs={self.ca}&ssl_certfile={self.cert}&ssl_keyfile={self.key}"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Make an authority and a certificate; without openssl, what needs them is skipped."""
    if not (openssl := shutil.which("openssl")):
        pytest.skip("no openssl on PATH (Debian: apt-get install openssl)")
    folder = tmp_path_factory.mktemp("tls")
    made = Certificates(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    new: list[str | Path] = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ]
    authority = [*new, "-subj", "/CN=Sluice tests", "-keyout", folder / "ca.key", "-out", made.ca]
    # What Python asks of an authority since 3.13.
    usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    signed = [*new, "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    signed += ["-addext", "basicConstraints=critical,CA:FALSE"]
    signed += ["-CA", made.ca, "-CAkey", folder / "ca.key", "-keyout", made.key, "-out", made.cert]
    for arguments in (authority + usage, signed):
        subprocess.run([openssl, *arguments], check=True, capture_output=True)
    return made


@pytest.fixture
def pair(valkey_server: Path) -> Iterator[list[Node]]:
    """A primary, and a copy of it."""
    with nodes(2, valkey_server, *AOF) as made:
        made[1].follow(made[0])
        yield made


def url_of(node: Node) -> str:
    """Return the URL of a plain server."""
    return f"redis://127.0.0.1:{node.port}"


# ── who is asked, and how ───────────────────────────────────────────────────────────────────────


async def test_sentinels_users_and_tls(
    redis_server: Path, certificates: Certificates, open_store: OpenStore
) -> None:
    """Over TLS with a client's certificate, an ACL user, and sentinels with their own password."""
    tls = certificates.server_options
    users = ("--user", "default", "on", "nopass", "~*", "&*", "+@all")
    app = ("--user", "app", "on", f">{PASSWORD}", "~sluice:*", "&*", "+@all", "-@dangerous")
    with watched(
        redis_server,
        *(*tls, *AOF, *users, *app, "+info", "+config|get"),
        sentinel=(*tls, "--requirepass", SENTINEL_PASSWORD),
        login=certificates.login,
        sentinel_login={**certificates.login, "password": SENTINEL_PASSWORD},
    ) as store:
        base = f"rediss+sentinel://app:{PASSWORD}@{store.hosts}/{NAME}?{certificates.query}"
        url = f"{base}&sentinel_password={SENTINEL_PASSWORD}"
        opened = await open_store(url, redis_url=url)
        [cursor] = await opened.append([(b"a", "")])
        assert [e.cursor for e in await opened.read(BEGINNING, block_ms=0)] == [cursor]
        for bad, said in (
            (f"{base}&sentinel_password={PASSWORD}", "nobody names a primary"),
            (url.replace(f"/{NAME}?", "/other?"), "no primary named 'other'"),
            (url.replace(f":{PASSWORD}@", ":wrong-wrong@"), "invalid username-password"),
            (url.replace(str(certificates.ca), str(certificates.cert)), "nobody names a primary"),
            (url.replace(str(certificates.ca), "/nowhere"), "nobody names a primary"),
        ):
            # Not opened: that would wait for a primary.
            found = Store(bad, Settings(namespace="test", redis_url=bad))
            with pytest.raises(StoreUnavailable, match=said) as caught:
                await found.ping()
            await found.close()
            for secret in (PASSWORD, SENTINEL_PASSWORD, "wrong-wrong"):
                assert secret not in str(caught.value)


async def test_one_server_over_tls(
    redis_server: Path, certificates: Certificates, open_store: OpenStore
) -> None:
    """A plain rediss:// URL takes the same options, and refuses a server that it cannot trust."""
    with nodes(1, redis_server, *certificates.server_options, *AOF, **certificates.login) as [node]:
        url = f"rediss://127.0.0.1:{node.port}?{certificates.query}"
        store = await open_store(url, redis_url=url)
        assert len(await store.append([(b"a", "")])) == 1
        untrusted = url.replace("ssl_ca_certs=", "ssl_ca_path=")
        with pytest.raises(StoreUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            await open_store(untrusted, redis_url=untrusted)


async def test_the_node_with_the_slot_is_found(valkey_server: Path, open_store: OpenStore) -> None:
    """In a cluster each namespace is at the node that has its slot; all that a store does works."""
    with cluster(valkey_server, *AOF) as made:
        places = set()
        for namespace in ("a", "b", "c", "d", "e", "f"):
            store = await open_store(made.url, redis_url=made.url, namespace=namespace)
            cursors = await store.append([(b"a", ""), (b"b", "")])
            await store.write_snapshot({"id": cursors[1]}, [b"x", b"y"])
            await store.append_quarantine([(cursors[0], 0, b"q")])
            await store.trim(cursors[1])
            assert await store.first_cursor() == cursors[1]
            assert [c async for c in store.read_chunks(cursors[1])] == [b"x", b"y"]
            assert await store.missing(cursors) == []
            places.add(made.primary_of(f"sluice:{{{namespace}}}:log").port)
        assert len(places) > 1


async def test_nobody_to_ask(open_store: OpenStore) -> None:
    """Where no sentinel or node answers, the error names them and what was wrong."""
    for url in ("redis+sentinel://127.0.0.1:1,127.0.0.1:2/main", "redis+cluster://127.0.0.1:1"):
        store = Store(url, Settings(redis_url=url))
        with pytest.raises(
            StoreUnavailable, match=r"127.0.0.1:1.*nobody names a primary .*Connect call failed"
        ):
            await store.ping()
        await store.close()


# ── copies that confirm ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("fsync", ["everysec", "always"])
async def test_an_append_waits_for_copies(
    pair: list[Node], open_store: OpenStore, fsync: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With wait_replicas an append needs so many copies; without, its outcome is unknown."""
    url = url_of(pair[0])
    store = await open_store(url, redis_url=url, fsync=fsync, wait_replicas=1, store_timeout_s=2)
    assert "connected replicas" not in caplog.text
    [cursor] = await store.append([(b"a", "")])
    key = "sluice:{test}:log"
    assert pair[1].client.xrange(key, cursor, cursor)  # it is there now, not soon

    pair[1].signal(signal.SIGSTOP)
    with pytest.raises(StoreUnavailable, match=r"0 of 1 replicas .* lower SLUICE_WAIT_REPLICAS"):
        await store.append([(b"b", "")])
    assert len(pair[0].client.xrange(key)) == 2
    pair[1].signal(signal.SIGCONT)
    assert await store.append([(b"c", "")])
    assert len(pair[1].client.xrange(key)) == 3


async def test_too_few_copies_are_remarked(
    pair: list[Node], open_store: OpenStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A server with fewer copies than an append needs is opened with a warning that says so."""
    url = url_of(pair[0])
    await open_store(url, redis_url=url, wait_replicas=2)
    assert "1 connected replicas, and SLUICE_WAIT_REPLICAS is 2" in caplog.text


async def test_always_without_waitaof_waits_for_copies_in_memory(
    redis_server: Path, open_store: OpenStore
) -> None:
    """Where a server has no WAITAOF, always with copies is its own disk and the copies' memory."""
    options = (*AOF, "--appendfsync", "always")
    with nodes(2, redis_server, *options) as [primary, copy]:
        copy.follow(primary)
        url = url_of(primary)
        store = await open_store(url, redis_url=url, fsync="always", wait_replicas=1)
        [cursor] = await store.append([(b"a", "")])
        assert copy.client.xrange("sluice:{test}:log", cursor, cursor)


async def test_the_embedded_store_has_no_copies() -> None:
    """Waiting for copies that cannot be is refused, with what to set."""
    with pytest.raises(ValueError, match="SLUICE_REDIS_URL"):
        Settings(wait_replicas=1)


# ── another server than before ──────────────────────────────────────────────────────────────────


async def test_nothing_is_written_to_a_new_server_until_it_is_admitted(
    pair: list[Node], valkey_server: Path, open_store: OpenStore
) -> None:
    """A server that took the old one's place gets lost entries first, and has to keep promises."""
    url = url_of(pair[0])
    store = await open_store(url, redis_url=url, fsync="always")
    await store.append([(b"a", "t")])
    held = await store.read(BEGINNING, block_ms=0)
    pair[0].signal(signal.SIGKILL)
    new = Node(valkey_server, port=pair[0].port).start()  # without an append-only file
    try:
        # The connection is opened again without a word, to a server that has not got the log.
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match=r"another server|closed|reset|refused"):
                await store.append([(b"b", "t")])
        assert store.is_new
        assert new.client.xlen("sluice:{test}:log") == 0
        new.client.config_set("appendonly", "yes")
        until(lambda: new.client.info("persistence")["aof_rewrite_in_progress"] == 0)
        assert await store.append_again(held, after=BEGINNING) == 1
        new.client.config_set("appendonly", "no")
        with pytest.raises(StoreUnavailable, match="SLUICE_FSYNC=always"):
            await store.admit(store.primary)
        assert store.is_new
        new.client.config_set("appendonly", "yes")
        until(lambda: new.client.info("persistence")["aof_rewrite_in_progress"] == 0)
        await store.admit(store.primary)
        assert await store.append([(b"b", "t")], after=held[0].cursor)
    finally:
        new.close()


async def test_only_the_server_that_was_looked_at_is_admitted(
    valkey_server: Path, open_store: OpenStore
) -> None:
    """One that took the place of a new server before that was let in may have lost more."""
    node = Node(valkey_server).start()
    store = await open_store(url_of(node))
    primaries = [store.primary]
    try:
        for _ in range(2):
            node.close()
            node = Node(valkey_server, port=node.port).start()
            while store.primary is primaries[-1]:
                with suppress(StoreUnavailable):
                    await store.ping()
            primaries.append(store.primary)
        with pytest.raises(StoreUnavailable, match="another server once more"):
            await store.admit(primaries[1])
        assert store.is_new
        await store.admit(primaries[2])
        assert not store.is_new
    finally:
        node.close()


async def test_an_old_primary_is_left_before_it_says_so(
    redis_server: Path, open_store: OpenStore
) -> None:
    """One that the sentinels have replaced is not written to, though it takes itself for one."""
    with watched(redis_server, *AOF) as made:
        store = await open_store(made.url, redis_url=made.url)
        [cursor] = await store.append([(b"a", "")])
        old = made.primary
        made.replace_primary()
        old.lead()  # as if it had been cut off from the sentinels all the time
        store._found_at = 0.0  # the time to look again has come
        await store.read(cursor, block_ms=0)
        assert store.is_new
        await store.admit(store.primary)
        await store.append([(b"b", "")])
        assert old.client.xlen("sluice:{test}:log") == 1


@pytest.mark.parametrize("url", ["redis+sentinel://h1,h2", "redis+ring://h1"])
async def test_the_forms_of_a_url_are_said(url: str) -> None:
    """A URL of no known form is answered with the forms that there are."""
    with pytest.raises(SettingsError, match=r"redis\+sentinel://.*redis\+cluster://"):
        Store(url, Settings())
