"""Writing a message to the dead letters, with its context."""

from __future__ import annotations

import logging

from nats.aio.msg import Msg

from engram_contracts.topology import dead_subject
from engram_runtime.bus import Appended, Bus, Entry
from engram_runtime.delivery import Receipt, burial_headers
from engram_runtime.telemetry import BURIED
from engram_runtime.troubles import words

log = logging.getLogger(__name__)


async def bury(
    bus: Bus, stage: str, stream: str, raw: Msg, tenant: str, *, attempt: int, why: str, error: Exception
) -> int | None:
    """Write a message to the dead letters; its sequence there, or `None` when it could not be written."""
    receipt = Receipt.of(raw)
    headers = burial_headers(raw, stage=stage, stream=stream, receipt=receipt, attempt=attempt, why=why, error=error)
    identity = f"{stage}-{stream}-{receipt.sequence}-{receipt.at.timestamp():.6f}"
    entry = Entry(subject=dead_subject(stage, tenant), body=raw.data, id=identity, headers=headers)
    outcome = (await bus.append([entry]))[0]
    if not isinstance(outcome, Appended):
        log.error("cannot bury", extra={"stage": stage, "sequence": receipt.sequence, "error": repr(outcome)})
        return None
    BURIED.labels(stage).inc()
    log.warning(
        "buried",
        extra={
            "stage": stage,
            "tenant": tenant,
            "why": why,
            "reason": words(error),
            "dead_sequence": outcome.sequence,
        },
    )
    return outcome.sequence
