"""Servers that can be lost: a primary with a copy, under sentinels, or in a cluster, on TCP."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis

from tests.integration.service import until

NAME = "main"
SLOTS = 16_384


def free_ports(n: int) -> list[int]:
    """Return ports that nobody listens on, each once."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(n)]
        return [s.getsockname()[1] for s in held]


class Node:
    """A server on a port of its own, which can be killed, stopped and started again."""

    def __init__(self, binary: Path, *options: str, port: int = 0, **login: Any) -> None:
        self.port = port or free_ports(1)[0]
        self.bus_port = 0
        self.folder = Path(tempfile.mkdtemp(prefix="sluice-test-"))
        self._binary, self._options, self._login = binary, options, login
        self._process: subprocess.Popen[bytes] | None = None
        self._clients: list[redis.Redis] = []

    def start(self, *options: str) -> Node:
        """Start it, and wait until it answers."""
        listen = ["--tls-port", str(self.port), "--port", "0"]
        if "ssl" not in self._login:
            listen = ["--port", str(self.port)]
        # A configuration file of its own, as a sentinel rewrites it.
        (self.folder / "conf").touch()
        common = ["--bind", "127.0.0.1", "--dir", str(self.folder), "--save", ""]
        common += ["--repl-diskless-sync-delay", "0"]  # 5 s by default, for others to join
        self._process = subprocess.Popen(
            [self._binary, self.folder / "conf", *listen, *common, *self._options, *options],
            stdout=subprocess.DEVNULL,
        )
        until(self.is_up)
        return self

    def is_up(self) -> bool:
        """Tell whether it answers."""
        assert self._process
        assert self._process.poll() is None, "the server did not start"
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    @property
    def client(self) -> Any:
        """A plain client of it."""
        if not self._clients:
            login = {"socket_timeout": 5, **self._login}
            self._clients.append(redis.Redis(host="127.0.0.1", port=self.port, **login))
        return self._clients[0]

    def signal(self, how: signal.Signals) -> None:
        """Stop it, continue it, or kill it."""
        assert self._process
        os.kill(self._process.pid, how)
        if how == signal.SIGKILL:
            self._process.wait()

    def role(self) -> str:
        """Return what it is: master or slave; "" if it does not say."""
        try:
            return str(self.client.info("replication")["role"])
        except redis.RedisError:
            return ""

    def follow(self, primary: Node) -> None:
        """Make it a copy of another, and wait until it is."""
        self.client.execute_command("REPLICAOF", "127.0.0.1", primary.port)
        until(lambda: self.client.info("replication")["master_link_status"] == "up")

    def lead(self) -> None:
        """Make it a primary with what it has, which may be too little."""
        self.client.execute_command("REPLICAOF", "NO", "ONE")

    def close(self) -> None:
        """End it."""
        for client in self._clients:
            client.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.folder)


@contextmanager
def nodes(n: int, binary: Path, *options: str, **login: Any) -> Iterator[list[Node]]:
    """Run n servers."""
    with ExitStack() as stack:
        made = []
        for port in free_ports(n):
            node = Node(binary, *options, port=port, **login)
            stack.callback(node.close)
            made.append(node.start())
        yield made


class Watched:
    """A primary and a copy under three sentinels."""

    def __init__(self, servers: list[Node], sentinels: list[Node]) -> None:
        self.servers, self.sentinels = servers, sentinels

    @property
    def hosts(self) -> str:
        """The sentinels, as a URL has them."""
        return ",".join(f"127.0.0.1:{s.port}" for s in self.sentinels)

    @property
    def url(self) -> str:
        """The URL for a service."""
        return f"redis+sentinel://{self.hosts}/{NAME}"

    @property
    def primary(self) -> Node:
        """The server that the first sentinel takes for the primary."""
        _, port = self.sentinels[0].client.sentinel_get_master_addr_by_name(NAME)
        return next(s for s in self.servers if s.port == port)

    def replace_primary(self) -> None:
        """Let the sentinels make the copy the primary, with both alive."""
        old, sentinel = self.primary, self.sentinels[0].client

        def is_replaced() -> bool:
            # Refused while one is on, and given up where a sentinel has not heard of the copy yet.
            with contextlib.suppress(redis.ResponseError):
                sentinel.execute_command("SENTINEL FAILOVER", NAME)
            return self.primary is not old

        until(is_replaced, within_s=30)

    def kill_primary(self) -> Node:
        """Kill the primary, and return it."""
        old = self.primary
        old.signal(signal.SIGKILL)
        return old


class Address:
    """A primary at one address, and a copy whose data can take that address over: a name, a VIP."""

    def __init__(self, binary: Path, *options: str) -> None:
        self._binary, self._options = binary, options
        self.nodes = [Node(binary, *options), Node(binary, *options)]
        self.primary, self.copy = self.nodes

    @property
    def url(self) -> str:
        """The URL for a service."""
        return f"redis://127.0.0.1:{self.primary.port}"

    def start(self) -> None:
        """Start both, and let one follow the other."""
        for node in self.nodes:
            node.start()
        self.copy.follow(self.primary)

    def part(self) -> None:
        """Let the copy fall behind from here on: it has all that there is, and nothing more."""
        self.primary.client.set("a write of this client", "to wait for")
        assert self.primary.client.wait(1, 10_000) == 1
        self.copy.lead()

    def fail(self) -> None:
        """Kill the primary."""
        self.primary.signal(signal.SIGKILL)

    def take_over(self) -> None:
        """Put the copy's data in the dead primary's place; it is read only for a moment."""
        new = Node(self._binary, *self._options, port=self.primary.port)
        self.nodes.append(new)
        new.start("--replicaof", f"127.0.0.1 {self.copy.port}")
        until(lambda: new.client.info("replication")["master_link_status"] == "up")
        new.lead()

    def close(self) -> None:
        """End all of it."""
        for node in self.nodes:
            node.close()


@contextmanager
def address(binary: Path, *options: str) -> Iterator[Address]:
    """Run a primary and a copy that can take over its address."""
    made = Address(binary, *options)
    try:
        made.start()
        yield made
    finally:
        made.close()


def n_copies(primary: Node) -> int:
    """Return how many copies follow a primary, and are up to date."""
    info = primary.client.info("replication")
    copies = [info[f"slave{i}"] for i in range(info["connected_slaves"])]
    return sum(copy["state"] == "online" for copy in copies)


def _knows_all(sentinel: Node) -> bool:
    state = sentinel.client.sentinel_master(NAME)
    replicas = sentinel.client.sentinel_slaves(NAME)
    up = [r for r in replicas if not (r["is_sdown"] or r["is_odown"] or r["is_disconnected"])]
    return bool(state["num-other-sentinels"] == 2 and len(up) == 1)


@contextmanager
def watched(
    binary: Path,
    *options: str,
    sentinel: tuple[str, ...] = (),
    monitor: tuple[str, ...] = (),
    login: dict[str, Any] | None = None,
    sentinel_login: dict[str, Any] | None = None,
) -> Iterator[Watched]:
    """Run a primary, a copy and three sentinels that would replace it within seconds.

    `sentinel` are the sentinels' own options, `monitor` lines on the primary that they watch.
    """
    with ExitStack() as stack:
        servers = stack.enter_context(nodes(2, binary, *options, **(login or {})))
        servers[1].follow(servers[0])
        sentinels = []
        for port in free_ports(3):
            node = Node(binary, "--sentinel", *sentinel, port=port, **(sentinel_login or {}))
            stack.callback(node.close)
            lines = [
                f"sentinel monitor {NAME} 127.0.0.1 {servers[0].port} 2",
                f"sentinel down-after-milliseconds {NAME} 500",
                f"sentinel failover-timeout {NAME} 3000",
                *(f"sentinel {line}" for line in monitor),
            ]
            (node.folder / "conf").write_text("\n".join(lines) + "\n")
            sentinels.append(node.start())
        until(lambda: all(_knows_all(s) for s in sentinels), within_s=30)
        yield Watched(servers, sentinels)


class Cluster:
    """Three primaries with a copy each."""

    def __init__(self, servers: list[Node]) -> None:
        self.servers = servers
        self.ids = {s.port: self._ask(s, "CLUSTER MYID").decode() for s in servers}

    @property
    def url(self) -> str:
        """The URL for a service; two of them are enough to find the others."""
        return f"redis+cluster://127.0.0.1:{self.servers[0].port},127.0.0.1:{self.servers[1].port}"

    @staticmethod
    def _ask(server: Node, command: str, *arguments: Any) -> Any:
        # Past redis-py's own reading of the answers, which differs between its versions.
        return server.client.execute_command(*command.split(), *arguments)

    def make(self) -> None:
        """Give the slots to the first three, and each of them one of the others as a copy."""
        first, *others = self.servers
        for server in others:
            self._ask(first, "CLUSTER MEET", "127.0.0.1", server.port, server.bus_port)
        for i, server in enumerate(self.servers[:3]):
            begin, end = i * SLOTS // 3, (i + 1) * SLOTS // 3 - 1
            self._ask(server, "CLUSTER ADDSLOTSRANGE", begin, end)
        until(lambda: all(self._n_known(s) == len(self.servers) for s in self.servers))
        for primary, copy in zip(self.servers[:3], self.servers[3:], strict=True):
            self._ask(copy, "CLUSTER REPLICATE", self.ids[primary.port])
        until(lambda: all(self._is_whole(s) for s in self.servers))

    def _n_known(self, server: Node) -> int:
        return len(self._lines(server))

    def _lines(self, server: Node) -> list[str]:
        found = server.client.connection_pool.get_connection()
        try:
            found.send_command("CLUSTER", "NODES")
            return [
                li for li in found.read_response().decode().splitlines() if "handshake" not in li
            ]
        finally:
            server.client.connection_pool.release(found)

    def _is_whole(self, server: Node) -> bool:
        lines = [line.split() for line in self._lines(server)]
        n_copies = sum("slave" in line[2] for line in lines)
        info = server.client.info("replication")
        is_linked = info["role"] == "master" or info["master_link_status"] == "up"
        is_linked &= server.client.cluster("INFO")["cluster_state"] == "ok"
        return n_copies == 3 and is_linked and not any("fail" in line[2] for line in lines)

    def primary_of(self, key: str) -> Node:
        """Return the server that holds a key's slot, as those that live see it."""
        from redis.crc import key_slot

        slot = key_slot(key.encode())
        for server in self.servers:
            if server.role() != "master":
                continue
            for line in self._lines(server):
                id_, _, flags, *_rest = line.split()
                ranges = line.split()[8:]
                if "myself" in flags and any(_covers(r, slot) for r in ranges):
                    return next(s for s in self.servers if self.ids[s.port] == id_)
        raise AssertionError("nobody has the slot")


def _covers(text: str, slot: int) -> bool:
    first, _, last = text.partition("-")
    return first.isdigit() and int(first) <= slot <= int(last or first)


@contextmanager
def cluster(binary: Path, *options: str, **login: Any) -> Iterator[Cluster]:
    """Run a cluster of three primaries and three copies, which notices a death in a second."""
    with ExitStack() as stack:
        servers = []
        for port, bus_port in zip(*[iter(free_ports(12))] * 2, strict=True):
            node = Node(
                binary,
                *("--cluster-enabled", "yes", "--cluster-node-timeout", "1000"),
                *("--cluster-port", str(bus_port), "--cluster-require-full-coverage", "no"),
                *options,
                port=port,
                **login,
            )
            node.bus_port = bus_port
            stack.callback(node.close)
            servers.append(node.start())
        made = Cluster(servers)
        made.make()
        yield made
