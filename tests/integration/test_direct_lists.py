"""Lists that are made when all has been read that came in together."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import orjson
import pytest

from app.api.protocol import TOGETHER
from tests.integration.conftest import StartService
from tests.integration.service import Service
from tests.integration.test_direct_posts import answers, connected, event, posted

N_CLIENTS = 3 * TOGETHER + 1


def asked(user_id: str) -> bytes:
    """Return a GET as it goes over the wire."""
    return f"GET /v1/recommendations/{user_id} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


@contextmanager
def halted(service: Service) -> Iterator[None]:
    """Let nothing be read, so that what comes in is read in one turn afterwards."""
    assert service.pid is not None
    os.kill(service.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(service.pid, signal.SIGCONT)


@pytest.fixture
def shop(make_service: StartService) -> Service:
    """A service whose users u0, u1 ... had each an item of their own."""
    service = make_service().start()
    events = [event(n, user_id=f"u{n}", event_id=f"e{n}") for n in range(N_CLIENTS)]
    assert service.client.post("/v1/feedback", json=events).status_code == 200
    return service


def test_who_asks_at_once_is_answered_each_for_himself(shop: Service) -> None:
    """All that is read together gets lists of their own users, whatever else is asked then."""
    with ExitStack() as stack:
        clients = [stack.enter_context(connected(shop)) for _ in range(N_CLIENTS)]
        for _ in range(3):  # on the same connections
            with halted(shop):
                for number, client in enumerate(clients):
                    client.sendall(asked(f"u{number}"))
            found = [answers(client, 1)[0] for client in clients]
            assert [status for status, _ in found] == [200] * N_CLIENTS
            assert [answer["user_id"] for _, answer in found] == [
                f"u{number}" for number in range(N_CLIENTS)
            ]
            for number, (_, answer) in enumerate(found):
                assert f"i{number}" not in {item["item_id"] for item in answer["items"]}
            assert len({answer["recommendation_id"] for _, answer in found}) == N_CLIENTS


def test_what_comes_in_one_packet_is_answered_in_order(shop: Service) -> None:
    """Lists, feedback, a bad request and lists again, without waiting for any answer."""
    body = orjson.dumps(event(500, user_id="u1", event_id="in-a-packet"))
    packet = [asked("u1"), asked("u2"), posted(body), asked("u3?k=0"), asked("u4"), asked("u5")]
    with connected(shop) as client:
        for _ in range(2):
            client.sendall(b"".join(packet))
            found = answers(client, len(packet))
            assert [status for status, _ in found] == [200, 200, 200, 422, 200, 200]
            assert [answer.get("user_id") for _, answer in found if "items" in answer] == [
                *("u1", "u2", "u4", "u5")
            ]


def test_who_sends_no_more_gets_the_list_and_an_end(shop: Service) -> None:
    """A client may close its half of the connection behind the request."""
    for is_halted in (True, False):
        with connected(shop) as client:
            with ExitStack() as stack:
                if is_halted:
                    stack.enter_context(halted(shop))
                client.sendall(asked("u1"))
                client.shutdown(socket.SHUT_WR)
            received = b""
            while part := client.recv(65_536):
                received += part
            head, _, content = received.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            assert orjson.loads(content)["user_id"] == "u1"


def test_who_hangs_up_is_not_waited_for(shop: Service) -> None:
    """Of those who ask together some are gone before anything is made: the others get theirs."""
    with ExitStack() as stack:
        clients = [stack.enter_context(connected(shop)) for _ in range(N_CLIENTS)]
        with halted(shop):
            for number, client in enumerate(clients):
                client.sendall(asked(f"u{number}"))
                if number % 3 == 0:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    client.close()
        stay = [(n, client) for n, client in enumerate(clients) if n % 3]
        assert [answers(client, 1)[0][1]["user_id"] for _, client in stay] == [
            f"u{n}" for n, _ in stay
        ]
    assert shop.client.get("/v1/recommendations/u1").status_code == 200


def test_nonsense_behind_a_list_ends_the_connection(shop: Service) -> None:
    """What is no HTTP is refused; others who ask at the same time get their lists."""
    with connected(shop) as bad, connected(shop) as good:
        with halted(shop):
            bad.sendall(asked("u1") + b"nonsense\r\n\r\n")
            good.sendall(asked("u2"))
        assert answers(good, 1)[0][1]["user_id"] == "u2"
        received = b""
        while part := bad.recv(65_536):
            received += part
        assert b" 400 " in received
    assert shop.client.get("/v1/recommendations/u1").status_code == 200


def test_lists_behind_lists_are_in_time_or_refused(shop: Service) -> None:
    """A deadline holds for many lists that are asked for in one packet as for others'."""
    late, n = 'sluice_deadlines_total{outcome="late"}', 200
    for _ in range(20):  # until it is known what a list takes
        shop.get("/v1/recommendations/u1")
    before = shop.counter(late)
    with connected(shop) as client:
        client.sendall(b"".join(asked(f"u{i % N_CLIENTS}?deadline_ms=5") for i in range(n)))
        found = answers(client, n)
    assert {status for status, _ in found} <= {200, 503}
    assert [answer["user_id"] for status, answer in found if status == 200] == [
        f"u{i % N_CLIENTS}" for i, (status, _) in enumerate(found) if status == 200
    ]
    assert shop.counter(late) - before <= n // 10


def test_the_first_of_many_get_whole_lists(shop: Service) -> None:
    """Of those who ask at once some are answered in time, however many ask behind them."""
    n, n_tries, n_whole = 400, 10, 0
    with ExitStack() as stack:
        clients = [stack.enter_context(connected(shop)) for _ in range(n)]
        while n_tries and not n_whole:
            n_tries -= 1
            for _ in range(20):  # short turns
                shop.get("/v1/recommendations/u1")
            with halted(shop):
                for number, client in enumerate(clients):
                    client.sendall(asked(f"u{number % N_CLIENTS}?deadline_ms=5"))
            found = [answers(client, 1)[0] for client in clients]
            n_whole += sum("items" in a and a["degraded"] is None for _, a in found)
    assert n_whole


def test_who_has_begun_to_ask_again_is_not_idle(shop: Service) -> None:
    """A list's answer does not begin the wait for the rest of a request that came with its GET."""
    first, second = asked("u1"), asked("u2")
    with connected(shop) as client:
        client.sendall(first + second[:20])
        time.sleep(5.5)  # uvicorn closes what is idle after 5
        client.sendall(second[20:])
        assert [answer["user_id"] for _, answer in answers(client, 2)] == ["u1", "u2"]
