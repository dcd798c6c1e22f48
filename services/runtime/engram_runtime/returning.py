"""Work that waited outside of its stream and is due: sent back to where it came from."""

from __future__ import annotations

from collections.abc import Sequence

from nats.aio.msg import Msg

from engram_contracts.topology import due_for
from engram_runtime.bus import Appended, Bus, Entry
from engram_runtime.delivery import Receipt

ACK = b"+ACK"
AGAIN_SECONDS = 2.0


class Returner:
    """Sends messages back; one that is refused, because its stream is full, is tried again soon."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def handle(self, batch: Sequence[Msg]) -> None:
        """Append each where it belongs, then let go of it. A crash in between sends it twice, which is harmless."""
        outcomes = await self._bus.append([_entry(message) for message in batch])
        for message, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Appended):
                await message.respond(ACK)
            else:
                await message.nak(delay=AGAIN_SECONDS)


def _entry(message: Msg) -> Entry:
    own = {name: value for name, value in (message.headers or {}).items() if not name.lower().startswith("nats-")}
    identity = f"due-{Receipt.of(message).sequence}"
    return Entry(subject=due_for(message.subject), body=message.data, id=identity, headers=own)
