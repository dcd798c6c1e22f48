"""What goes along with a request through one process."""

from __future__ import annotations

from contextvars import ContextVar

correlation: ContextVar[str | None] = ContextVar("correlation", default=None)
"""The correlation id of what is being handled; logs carry it, and so does everything sent on."""
