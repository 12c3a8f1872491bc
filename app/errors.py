"""The tree of errors. Each knows its HTTP status and its code; none knows FastAPI.

`message` is one sentence for the person who has to act on it: it names the field and the value.
"""

from __future__ import annotations


class SluiceError(Exception):
    """Base of everything that Sluice raises on purpose."""

    status = 500
    code = "internal"

    def __init__(
        self, message: str, *, details: list[str] | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = details or []
        self.retry_after_s = retry_after_s


class SettingsError(SluiceError):
    """A setting is unknown, out of bounds, or contradicts the log: the start stops here."""

    code = "settings"


class InvalidRequest(SluiceError):
    """The shape of a payload, parameter or cursor is wrong."""

    status = 422
    code = "invalid_request"


class Unauthorized(SluiceError):
    """No key, or one that we do not know."""

    status = 401
    code = "unauthorized"


class Forbidden(SluiceError):
    """A known key that may not do this."""

    status = 403
    code = "forbidden"


class NotFound(SluiceError):
    """The named resource does not exist."""

    status = 404
    code = "not_found"


class Conflict(SluiceError):
    """The state of the service forbids it now."""

    status = 409
    code = "conflict"


class SnapshotRefused(Conflict):
    """A snapshot is damaged, incomplete, or of a format that this version does not read."""

    code = "snapshot_refused"


class ArchiveRefused(Conflict):
    """A file of the archive is damaged, or of a format that this version does not read."""

    code = "archive_refused"


class RebuildFailed(SluiceError):
    """A past state that could not be rebuilt, or not in the time that it may take."""

    status = 503
    code = "rebuild_failed"


class TooLarge(SluiceError):
    """A body is over its limit."""

    status = 413
    code = "too_large"


class TooManyRequests(SluiceError):
    """More than this process can take just now."""

    status = 429
    code = "too_many_requests"

    def __init__(self, message: str) -> None:
        super().__init__(message, retry_after_s=1)


class Overloaded(SluiceError):
    """More requests come in than this process can answer; nothing was done for this one."""

    status = 503
    code = "overloaded"

    def __init__(self, message: str) -> None:
        super().__init__(message, retry_after_s=1)


class StoreUnavailable(SluiceError):
    """The store did not answer in time; nothing was acknowledged. Try again later."""

    status = 503
    code = "store_unavailable"

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message, retry_after_s=retry_after_s)


class NothingWritten(StoreUnavailable):
    """The store does not take it now; what was sent is not in the log."""


class Delayed(SluiceError):
    """What was sent is in the log, at `cursor`, and is applied later, as the budget has it."""

    status = 503
    code = "delayed"

    def __init__(self, cursor: str) -> None:
        super().__init__(
            f"what was sent is in the log at {cursor} and will be applied, which takes longer, as"
            " SLUICE_BUDGET_LEARNING delays learning: do not send it again",
            retry_after_s=30,
        )
        self.cursor = cursor


class CopyFailed(SluiceError):
    """The copy of this process that read its state ended before it had done so."""

    status = 503
    code = "copy_failed"

    def __init__(self, message: str) -> None:
        super().__init__(message, retry_after_s=10)


class LogTrimmed(SluiceError):
    """A reader stands before the beginning of the log, or past its end; it must reload."""

    code = "log_trimmed"


class LogRewritten(LogTrimmed):
    """Another log has taken the place of the one that was read: somebody was forgotten exactly."""

    code = "log_rewritten"


class LogStopped(SluiceError):
    """This process met an entry that it must not apply; it serves what it has and is not ready."""

    status = 503
    code = "log_stopped"

    def __init__(self, message: str) -> None:
        super().__init__(message, retry_after_s=30)


class Diverged(LogStopped):
    """This process's state is not that of another which has applied the same log."""

    code = "diverged"
