"""Remember, recall, and read everything back, with the synchronous client. Needs `engram-client` alone.

ENGRAM_URL and ENGRAM_API_KEY say where Engram is; without them it is the one that runs on this machine.
"""

from __future__ import annotations

import os
from pathlib import Path

from engram_client import Engram
from engram_contracts.errors import NotFound
from engram_contracts.memory import Filters, NewMemory

URL = os.environ.get("ENGRAM_URL", "http://127.0.0.1:8765")
KEY = os.environ.get("ENGRAM_API_KEY") or Path("~/.engram/data/admin.key").expanduser().read_text().strip()

with Engram(URL, KEY) as engram:
    engram.remember("Joel moved from Antwerp to Ghent.", wait="indexed")
    notes = [NewMemory(content=f"Firing {n} reached {1_200 + n} degrees.", session_id="kiln") for n in range(30)]
    made = engram.remember_many(notes, wait="done")
    print(f"kept {made.accepted}")

    for hit in engram.recall("Where does Joel live?", limit=3).hits:
        print(f"{hit.score:.2f}  {hit.memory.content}")

    every = list(engram.memories(Filters(session_id="kiln"), page=10))  # three pages, fetched as they are needed
    print(f"{len(every)} notes of the kiln, the newest first")

    print(engram.think("Where does Joel live?").answer)

    try:
        engram.memory("00000000-0000-7000-8000-000000000000")
    except NotFound as error:
        print(f"{error.code}: {error.message}")
