"""What a client can raise."""

from __future__ import annotations


class SluiceClientError(Exception):
    """Base of everything that the client raises on purpose."""


class ServiceError(SluiceClientError):
    """The service refused a request: `status` and `code` say how, the message says why."""

    def __init__(self, status: int, code: str, message: str, details: list[object]) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.details = details


class Unavailable(SluiceClientError):
    """The service did not answer, or could not just now, for as long as it was tried."""


class BufferFull(SluiceClientError):
    """As many events wait to be sent as may; this one was not taken."""


class Closed(SluiceClientError):
    """The client was closed; it takes no more events."""
