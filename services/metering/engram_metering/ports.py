"""What metering needs of its store."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import Literal, Protocol

from engram_contracts.questions import Meter
from engram_contracts.trail import Head
from engram_metering.intake import Counted, CountedUsage
from engram_runtime.service import Delivery


class Ledger(Protocol):
    """Charges and the positions in the streams they came from, stored together."""

    async def post_facts(self, facts: Sequence[Delivery[Counted]], heads: Sequence[Head] = ()) -> None:
        """Count facts of the LOG and move its position to the last of them; what was counted before changes nothing.

        `heads` are the ends of audit chains that were written meanwhile, kept beside.
        """

    async def post_usage(self, batches: Sequence[Delivery[CountedUsage]], heads: Sequence[Head] = ()) -> None:
        """Count usage events of the USAGE stream, in the same manner."""

    async def standing(self, tenant: str, day: date) -> dict[str, int]:
        """What a tenant has, and what it used on a day: `memories`, `storage_bytes`, `calls`, `think_tokens`."""

    async def heads(self, tenant: str | None) -> list[Head]:
        """The ends of all audit chains, or of one tenant's."""

    async def position(self, stream: str) -> int:
        """The last sequence of a stream whose effects are stored; 0 for none."""

    async def appended(self, stream: str) -> datetime | None:
        """When the last of these was appended to the stream, where that is known."""

    async def rewind(self, stream: str, sequence: int) -> None:
        """Set the position back; what was counted stays counted."""

    async def meters(
        self, tenant: str, first: date, last: date, *, meter: str | None, by: Literal["day", "hour"] = "day"
    ) -> list[Meter]:
        """A tenant's totals by day (or hour) and meter, from `first` to `last` inclusive."""

    async def ping(self) -> None:
        """Return if the store answers; raise `Unavailable` otherwise."""
