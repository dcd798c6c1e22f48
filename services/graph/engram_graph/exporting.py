"""Everything the record keeps of a tenant, told page by page: memories, then nodes, edges and answers."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from engram_contracts.erasing import (
    Exported,
    ExportedAnswer,
    ExportedEdge,
    ExportedMemory,
    ExportedNode,
    ExportPage,
    ExportRecorded,
)
from engram_contracts.errors import Rejected
from engram_contracts.facts import Thought
from engram_contracts.ids import partition_of
from engram_contracts.memory import Judgement, Memory, MemoryVersion
from engram_graph.partitions import Partitions
from engram_graph.store_duckdb import Reading as Cursor

MEMORIES = """
SELECT key, record FROM memories WHERE tenant = $tenant AND key > $after AND record IS NOT NULL
AND ($user IS NULL OR user_id = $user) ORDER BY key LIMIT $limit
"""
VERSIONS = """
SELECT memory, version, since, change, record FROM versions
WHERE tenant = $1 AND memory IN (SELECT unnest($2::BIGINT[])) ORDER BY memory, version
"""
FEEDBACK = """
SELECT memory, given, verdict, version, query, note, actor FROM feedback
WHERE tenant = $1 AND memory IN (SELECT unnest($2::BIGINT[])) ORDER BY memory, log_sequence
"""
NODES = """
SELECT key, id, attributes FROM nodes WHERE tenant = $tenant AND key > $after AND $user IS NULL
ORDER BY key LIMIT $limit
"""
EDGES = """
SELECT row_number() OVER (ORDER BY e.source, e.type, e.target, e.valid_from) AS place, s.id, e.type, t.id, e.weight,
       e.valid_from, e.valid_to
FROM all_edges e JOIN nodes s ON s.tenant = $tenant AND s.key = e.source
JOIN nodes t ON t.tenant = $tenant AND t.key = e.target
WHERE e.tenant = $tenant AND $user IS NULL QUALIFY place > $after ORDER BY place LIMIT $limit
"""
ANSWERS = """
SELECT log_sequence, command, thought FROM jobs
WHERE tenant = $tenant AND thought IS NOT NULL AND log_sequence > $after AND $user IS NULL
ORDER BY log_sequence LIMIT $limit
"""


class Exporter:
    """Answers what is exported."""

    def __init__(self, partitions: Partitions) -> None:
        self._partitions = partitions

    async def page(self, question: ExportRecorded) -> ExportPage:
        """A page; of a user the memories alone. Raises `Rejected` for an `after` that no page gave."""
        section, place = _place(question.after)
        number = partition_of(question.tenant)
        if not self._partitions.exists(number):
            return ExportPage(records=())
        values = {
            "tenant": question.tenant, "user": question.user_id, "after": place, "limit": question.limit,
        }  # fmt: skip
        rows = await self._partitions.ask(number, lambda cursor: _rows(cursor, section, values))
        if len(rows) == question.limit:
            after = f"{SECTIONS[section]}.{rows[-1][0]}"
        elif section + 1 < len(SECTIONS):
            after = f"{SECTIONS[section + 1]}.0"
        else:
            after = None
        return ExportPage(records=tuple(record for _, record in rows), after=after)


Row = tuple[int, Exported]


def _rows(cursor: Cursor, section: int, values: dict[str, Any]) -> list[Row]:
    query, read = _READ[section]
    return read(cursor, values["tenant"], cursor.execute(query, values).fetchall())


def _memories(cursor: Cursor, tenant: str, rows: Sequence[Any]) -> list[Row]:
    keys = [key for key, _ in rows]
    versions, feedback = defaultdict(list), defaultdict(list)
    for key, version, at, change, text in cursor.execute(VERSIONS, [tenant, keys]).fetchall():
        was = {"version": version, "at": at, "change": change, "memory": json.loads(cursor.record(tenant, text))}
        versions[key].append(MemoryVersion.model_validate(was))
    names = ("at", "verdict", "version", "query", "note", "actor")
    for key, *given, query, note, actor in cursor.execute(FEEDBACK, [tenant, keys]).fetchall():
        said = (*given, cursor.words(tenant, query), cursor.words(tenant, note), actor)
        feedback[key].append(Judgement.model_validate(dict(zip(names, said, strict=True))))
    return [
        (
            key,
            ExportedMemory(
                memory=Memory.model_validate_json(cursor.record(tenant, text)),
                versions=tuple(versions[key]),
                feedback=tuple(feedback[key]),
            ),
        )
        for key, text in rows
    ]


def _nodes(_: Cursor, __: str, rows: Sequence[Any]) -> list[Row]:
    return [(key, ExportedNode(id=name, attributes=json.loads(said) if said else {})) for key, name, said in rows]


def _edges(_: Cursor, __: str, rows: Sequence[Any]) -> list[Row]:
    return [
        (place, ExportedEdge(source=source, edge=kind, target=target, weight=weight, valid_from=start, valid_to=end))
        for place, source, kind, target, weight, start, end in rows
    ]


def _answers(cursor: Cursor, tenant: str, rows: Sequence[Any]) -> list[Row]:
    said = [
        (sequence, command, Thought.model_validate_json(cursor.thought(tenant, text)))
        for sequence, command, text in rows
    ]
    return [
        (sequence, ExportedAnswer(job=command, question=thought.question, answer=thought.answer, at=thought.at))
        for sequence, command, thought in said
    ]


SECTIONS = ("memories", "nodes", "edges", "answers")
Read = Callable[[Cursor, str, Sequence[Any]], list[Row]]
_READ: tuple[tuple[str, Read], ...] = (
    (MEMORIES, _memories), (NODES, _nodes), (EDGES, _edges), (ANSWERS, _answers),
)  # fmt: skip


def _place(after: str | None) -> tuple[int, int]:
    section, _, place = (after or "memories.0").partition(".")
    if section not in SECTIONS or not place.isdecimal():
        raise Rejected("this cursor was not given by an export", field="cursor")
    return SECTIONS.index(section), int(place)
