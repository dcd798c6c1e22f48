"""The error family: what went wrong, whether a retry can help, and when.

Raise the class that says what you mean. Workers and the door read the advice from the error itself:
`retry` is `never` (the same request will fail again) or `later` (after `retry_after` seconds, if known).
"""

from __future__ import annotations

from typing import ClassVar, Literal

from engram_contracts.messages import Message

Retry = Literal["never", "later"]


class EngramError(Exception):
    """Base of all errors that cross a wall between services or reach a client."""

    code: ClassVar[str] = "INTERNAL_ERROR"
    status: ClassVar[int] = 500
    retry: ClassVar[Retry] = "later"

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        retry_after: float | None = None,
        status: int | None = None,
        details: dict[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after = retry_after
        self.http_status = status or self.status
        self.details = details or {}


class Internal(EngramError):
    """A fault of ours. A retry may find it mended."""


class Rejected(EngramError):
    """The request can never succeed as it stands: bad input."""

    code, status, retry = "INVALID_REQUEST", 400, "never"


class Unauthorized(EngramError):
    """No key or token, or one that does not count."""

    code, status, retry = "UNAUTHORIZED", 401, "never"


class QuotaExceeded(EngramError):
    """The tenant's plan is used up; `details` holds metric, current, limit and reset."""

    code, status, retry = "QUOTA_EXCEEDED", 402, "never"


class Forbidden(EngramError):
    """Known, but not allowed to do this."""

    code, status, retry = "FORBIDDEN", 403, "never"


class NotFound(EngramError):
    """There is no such thing for this tenant, whatever others may own."""

    code, status, retry = "NOT_FOUND", 404, "never"


class Conflict(EngramError):
    """What is stored, or what came before under the same key, stands against this request."""

    code, status, retry = "CONFLICT", 409, "never"


class Cancelled(Conflict):
    """Called off before it took effect."""


class Expired(Conflict):
    """Its deadline passed before it took effect."""


class RateLimited(EngramError):
    """This tenant asked too much at once; others are served."""

    code, status, retry = "RATE_LIMITED", 429, "later"


class Overloaded(EngramError):
    """The whole system is full for now."""

    code, status, retry = "OVERLOADED", 503, "later"


class Unavailable(EngramError):
    """A part that is needed is away or did not answer in time."""

    code, status, retry = "UNAVAILABLE", 503, "later"


class Maintenance(EngramError):
    """Writes are closed on purpose for a while."""

    code, status, retry = "MAINTENANCE", 503, "later"


FAMILY: dict[str, type[EngramError]] = {
    kind.code: kind
    for kind in (
        Internal, Rejected, Unauthorized, QuotaExceeded, Forbidden, NotFound,
        Conflict, RateLimited, Overloaded, Unavailable, Maintenance,
    )
}  # fmt: skip


class Failure(Message):
    """An error on the wire; `Failure.of(error).error()` is the same error on the other side."""

    code: str
    message: str
    field: str | None = None
    retry_after: float | None = None
    status: int | None = None
    details: dict[str, object] | None = None

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """The wire form; an error that is not of the family becomes INTERNAL_ERROR and keeps its words to itself."""
        if not isinstance(error, EngramError):
            return cls(code=Internal.code, message=f"unexpected {type(error).__name__}; see the log")
        return cls(
            code=error.code,
            message=error.message,
            field=error.field,
            retry_after=error.retry_after,
            status=error.http_status,
            details=error.details or None,
        )

    def error(self) -> EngramError:
        """The error this failure stands for."""
        kind = FAMILY.get(self.code, Internal)
        return kind(
            self.message,
            field=self.field,
            retry_after=self.retry_after,
            status=self.status,
            details=self.details,
        )
