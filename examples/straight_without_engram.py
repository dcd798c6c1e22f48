"""Publish a memory straight on NATS without a line of Engram's code: the exported JSON Schema, and `nats-py`.

engram nats-creds default --out creds.json
engram contracts export contracts
python examples/straight_without_engram.py creds.json contracts "The scale reads 198 kilos."
"""

from __future__ import annotations

import asyncio
import datetime
import json
import sys
import uuid
from pathlib import Path

import jsonschema
import nats


async def main(credentials: dict[str, str], schema: dict[str, object], content: str) -> None:
    """Remember one thing; the same content again adds nothing."""
    identity = str(uuid.uuid5(uuid.NAMESPACE_URL, f"scale-7/{content}"))
    now = datetime.datetime.now(datetime.UTC).isoformat()
    command = {"id": identity, "memory_id": identity, "accepted_at": now, "memory": {"content": content}}
    jsonschema.validate(command, schema)
    connection = await nats.connect(credentials["url"], user=credentials["user"], password=credentials["password"])
    subject = f"engram.work.any.remember.{credentials['tenant']}"
    answer = json.loads((await connection.request(subject, json.dumps(command).encode(), timeout=10)).data)
    if "error" in answer:
        sys.exit(f"refused with {answer['error']['code']}: {answer['error']['description']}")
    print("known already" if answer.get("duplicate") else "accepted", identity, answer["job"])
    await connection.close()


if __name__ == "__main__":
    schema = json.loads((Path(sys.argv[2]) / "schemas" / "Remember.json").read_text())
    asyncio.run(main(json.loads(Path(sys.argv[1]).read_text()), schema, sys.argv[3]))
