"""Publish a memory straight on NATS, and wait until it can be recalled. Needs `engram-contracts` and `nats-py`.

engram nats-creds default --out creds.json
python examples/straight_to_nats.py creds.json "The scale reads 198 kilos."
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import nats
from nats.js.errors import APIError

from engram_contracts.commands import Remember
from engram_contracts.events import Progress
from engram_contracts.ids import derived_id
from engram_contracts.memory import MemoryFields
from engram_contracts.topology import event_subject, work_subject


async def main(credentials: dict[str, str], content: str) -> None:
    """Remember one thing; the same content again adds nothing."""
    connection = await nats.connect(credentials["url"], user=credentials["user"], password=credentials["password"])
    tenant = credentials["tenant"]
    progress = await connection.subscribe(event_subject(tenant, Progress.event))
    identity = derived_id(tenant, "scale-7", content)
    memory = MemoryFields(content=content, source="scale-7")
    command = Remember(id=identity, memory_id=identity, accepted_at=datetime.now(UTC), memory=memory)
    try:
        accepted = await connection.jetstream().publish(work_subject(tenant, Remember.op), command.encode())
    except APIError as refused:  # 429 and 503: later; all else: never
        sys.exit(f"refused with {refused.code}: {refused.description}")
    print("known already" if accepted.duplicate else "accepted", command.memory_id)
    while not accepted.duplicate:
        told = Progress.model_validate_json((await progress.next_msg(timeout=30)).data)
        if told.stage == "indexed" and command.id in told.commands:
            break
    print("can be recalled")
    await connection.close()


if __name__ == "__main__":
    asyncio.run(main(json.loads(Path(sys.argv[1]).read_text()), sys.argv[2]))
