"""The transport that gathers: nothing is lost, reordered or held for long."""

from __future__ import annotations

import asyncio

import pytest

from app.api.protocol import MAX_HELD_BYTES, Gathering

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The event loop that the service runs on."""
    return "asyncio"


class Written(asyncio.Transport):
    """Keeps what it is given to write, and whether it was closed."""

    def __init__(self) -> None:
        super().__init__({"peername": ("here", 1)})
        self.writes: list[bytes] = []
        self.n_written_at_close: int | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep it."""
        self.writes.append(bytes(data))

    def close(self) -> None:
        """Note what had been written."""
        self.n_written_at_close = len(self.writes)


def gathering() -> tuple[Gathering, Written]:
    """Return a transport that gathers, and the one below it."""
    written = Written()
    return Gathering(written, asyncio.get_running_loop()), written


async def test_what_is_written_in_one_turn_goes_out_together() -> None:
    """Head and body of one answer, and answers of one turn, are one write, in order."""
    transport, written = gathering()
    for data in (b"head", b"body", b"head 2", b"body 2"):
        transport.write(data)
    assert written.writes == []
    await asyncio.sleep(0)
    assert written.writes == [b"headbodyhead 2body 2"]
    transport.write(b"later")
    await asyncio.sleep(0)
    assert written.writes[1:] == [b"later"]


async def test_much_is_not_held() -> None:
    """Whoever writes without end fills the transport below, which makes them wait."""
    transport, written = gathering()
    transport.write(b"x" * MAX_HELD_BYTES)
    transport.write(b"y")
    assert written.writes == [b"x" * MAX_HELD_BYTES + b"y"]
    transport.write(b"z")
    await asyncio.sleep(0)
    assert written.writes[1:] == [b"z"]


async def test_closing_sends_first() -> None:
    """What was written before the end is sent before the end."""
    transport, written = gathering()
    transport.write(b"last words")
    transport.close()
    assert written.writes == [b"last words"]
    assert written.n_written_at_close == 1
    await asyncio.sleep(0)
    assert len(written.writes) == 1


async def test_everything_else_is_asked_of_the_transport_below() -> None:
    """Who is at the other end, and whatever else a transport knows, is as it was."""
    transport, _ = gathering()
    assert transport.get_extra_info("peername") == ("here", 1)
