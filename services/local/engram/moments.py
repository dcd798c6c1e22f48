"""Times as people type them. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from engram_contracts.errors import Rejected
from engram_contracts.messages import in_utc

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_AGO = re.compile(r"(\d{1,9})([smhd])", re.ASCII)


def seconds(text: str, name: str) -> int:
    """How long (`90s`, `30m`, `24h`, `7d`), in seconds. Raises `Rejected` for anything else."""
    span = _AGO.fullmatch(text)
    if span is None:
        raise Rejected(f"{text!r} is no stretch of time; write 90s, 30m, 24h or 7d", field=name)
    return int(timedelta(**{UNITS[span[2]]: int(span[1])}).total_seconds())


def later(text: str, name: str, *, now: datetime | None = None) -> str:
    """A time (ISO 8601), or how long from now (`24h`, `90d`), as a time in UTC. Raises `Rejected` for anything else."""
    if _AGO.fullmatch(text) is None:
        return moment(text, name)
    try:
        return ((now or datetime.now(UTC)) + timedelta(seconds=seconds(text, name))).isoformat()
    except OverflowError:
        raise Rejected(f"{text!r} is too long", field=name) from None


def moment(text: str, name: str, *, now: datetime | None = None) -> str:
    """A time (ISO 8601), or how long ago (`30m`, `2h`, `7d`), as a time in UTC. Raises `Rejected` for anything else."""
    ago = _AGO.fullmatch(text)
    try:
        if ago:
            return ((now or datetime.now(UTC)) - timedelta(**{UNITS[ago[2]]: int(ago[1])})).isoformat()
        return in_utc(datetime.fromisoformat(text)).isoformat()
    except (ValueError, OverflowError):
        raise Rejected(f"{text!r} is no time; write 2026-01-31T12:00 or, for how long ago, 2h", field=name) from None
