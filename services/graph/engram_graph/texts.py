"""Text in the record: sealed before it is written, opened where it is read, for tenants that want that.

Of a memory's JSON the content alone is sealed, in place of which `sealed` stands first; what filters look at stays as
it is. Of an answer everything is, beside the ids of the memories that it cites, by which it is found when one is
forgotten.
"""

from __future__ import annotations

import json
from typing import Any

from engram_contracts.facts import Thought
from engram_runtime.vault import Texts

SEALED = '{"sealed":"'

Row = tuple[Any, ...]


def sealed_row(texts: Texts, table: str, row: Row) -> Row:
    """A row as it may be written; its first column is the tenant's name."""
    tenant = row[0]
    if table in ("memories", "versions"):
        return (*row[:-1], row[-1] and seal_record(texts, tenant, row[-1]))
    if table == "jobs":
        return (*row[:-1], row[-1] and seal_thought(texts, tenant, row[-1]))
    if table == "feedback":
        query, note = (said and texts.seal_text(tenant, said) for said in row[5:7])
        return (*row[:5], query, note, *row[7:])
    return row


def seal_record(texts: Texts, tenant: str, record: str) -> str:
    """A memory's JSON as it may be written."""
    said = json.loads(record)
    return _compact({"sealed": texts.seal_text(tenant, said.pop("content")), **said})


def open_record(texts: Texts, tenant: str, record: str) -> str:
    """A memory's JSON as it was."""
    if not record.startswith(SEALED):
        return record
    said = json.loads(record)
    return _compact({"content": texts.open_text(tenant, said.pop("sealed")), **said})


def seal_thought(texts: Texts, tenant: str, thought: str) -> str:
    """An answer's JSON as it may be written."""
    cited = [citation.memory_id for citation in Thought.model_validate_json(thought).citations]
    return _compact({"sealed": texts.seal_text(tenant, thought), "cites": cited})


def open_thought(texts: Texts, tenant: str, thought: str) -> str:
    """An answer's JSON as it was."""
    return texts.open_text(tenant, json.loads(thought)["sealed"]) if thought.startswith(SEALED) else thought


def _compact(said: dict[str, Any]) -> str:
    return json.dumps(said, ensure_ascii=False, separators=(",", ":"))
