"""Questions to a partition's record, each for one tenant: a cursor, the tenant, then what is asked.

No function here takes its tenant from anywhere else, and each statement is bound to it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from engram_contracts.errors import NotFound, Rejected
from engram_contracts.facts import Thought
from engram_contracts.memory import Filters, Judgement, Memory, MemoryVersion
from engram_contracts.questions import History, JobRecord, MemoryPage, Node, NodePage
from engram_graph.schema import slot
from engram_graph.store_duckdb import Reading as Cursor
from engram_graph.store_duckdb import aware
from engram_graph.vocabulary import Known

if TYPE_CHECKING:
    from numpy.typing import NDArray


def memory(cursor: Cursor, tenant: str, memory_id: str) -> Memory:
    """The current record. Raises `NotFound` when there is none, or it was forgotten."""
    return Memory.model_validate_json(_record(cursor, tenant, memory_id)[1])


def history(cursor: Cursor, tenant: str, memory_id: str) -> History:
    """All versions and verdicts, oldest first. Raises `NotFound` as `memory` does."""
    key, record = _record(cursor, tenant, memory_id)
    current = Memory.model_validate_json(record)
    change = "created" if current.version == 1 else "revised"
    rows = cursor.execute(
        "SELECT version, since, change, record FROM versions WHERE tenant = $1 AND memory = $2 ORDER BY version",
        [tenant, key],
    ).fetchall()
    older = [
        MemoryVersion.model_validate(
            {
                "version": version,
                "at": since,
                "change": how,
                "memory": Memory.model_validate_json(cursor.record(tenant, text)),
            }
        )
        for version, since, how, text in rows
    ]
    newest = MemoryVersion(version=current.version, at=current.updated_at, change=change, memory=current)
    return History(versions=(*older, newest), feedback=_judgements(cursor, tenant, key))


def _judgements(cursor: Cursor, tenant: str, key: int) -> tuple[Judgement, ...]:
    rows = cursor.execute(
        """SELECT given, verdict, version, query, note, actor FROM feedback
        WHERE tenant = $1 AND memory = $2 ORDER BY log_sequence""",
        [tenant, key],
    ).fetchall()
    names = ("at", "verdict", "version", "query", "note", "actor")
    said = ((*row[:3], cursor.words(tenant, row[3]), cursor.words(tenant, row[4]), row[5]) for row in rows)
    return tuple(Judgement.model_validate(dict(zip(names, row, strict=True))) for row in said)


def memories(cursor: Cursor, tenant: str, filters: Filters, *, limit: int, after: str | None) -> MemoryPage:
    """Memories in the order they were recorded, newest first, from below the memory `after`."""
    where, values = _where(tenant, filters)
    total = None
    page, bounds = where, values
    if after is None:
        total = cursor.execute(f"SELECT count(*) FROM memories WHERE {where}", values).fetchall()[0][0]  # noqa: S608  # our text
    else:
        page, bounds = f"{where} AND key < ?", [*values, _cursor_key(cursor, tenant, after)]
    rows = cursor.execute(
        f"SELECT record FROM memories WHERE {page} ORDER BY key DESC LIMIT ?",  # noqa: S608  # our text
        [*bounds, limit + 1],
    ).fetchall()
    found = tuple(Memory.model_validate_json(cursor.record(tenant, row[0])) for row in rows[:limit])
    return MemoryPage(memories=found, after=found[-1].id if len(rows) > limit else None, total=total)


def count(cursor: Cursor, tenant: str) -> int:
    """How many living memories there are."""
    query = "SELECT count(*) FROM memories WHERE tenant = $1 AND state <> 'forgotten'"
    return int(cursor.execute(query, [tenant]).fetchall()[0][0])


def job(cursor: Cursor, tenant: str, command: str) -> JobRecord | None:
    """What became of a command, or `None` where it took no effect yet."""
    rows = cursor.execute(
        """SELECT memory_id, accepted_at, embedded_at, linked_at, thought FROM jobs
        WHERE slot = $1 AND tenant = $2 AND command = $3""",
        [slot(tenant, command), tenant, command],
    ).fetchall()
    if not rows:
        return None
    memory_id, accepted, embedded, linked, thought = rows[0]
    return JobRecord(
        memory_id=memory_id,
        accepted_at=accepted,
        embedded_at=embedded,
        linked_at=linked,
        thought=Thought.model_validate_json(cursor.thought(tenant, thought)) if thought is not None else None,
    )


def nodes(
    cursor: Cursor, tenant: str, *, kind: str | None, prefix: str | None, limit: int, after: str | None
) -> NodePage:
    """Nodes by number of mentions, then id. Degrees are left to the graph in memory (0 here)."""
    where, values = ["tenant = $tenant"], {"tenant": tenant, "limit": limit + 1}
    if kind is not None:
        where.append("starts_with(id, $kind)")
        values["kind"] = f"{kind}:"
    if prefix is not None:
        where.append("starts_with(lower(substr(id, instr(id, ':') + 1)), lower($prefix))")
        values["prefix"] = prefix
    if after is not None:
        values["mentions"], values["id"] = place(after)
    rows = cursor.execute(
        f"""
        SELECT id, attributes, coalesce(mentioned, 0) AS mentions FROM nodes
        LEFT JOIN (SELECT node, count(*) AS mentioned FROM mentions WHERE tenant = $tenant GROUP BY node)
        ON key = node WHERE {" AND ".join(where)}
        {"AND (mentions < $mentions OR (mentions = $mentions AND id > $id))" if after is not None else ""}
        ORDER BY mentions DESC, id LIMIT $limit""",  # noqa: S608  # our text
        values,
    ).fetchall()
    found = tuple(node_of(name, attributes, mentions=mentions) for name, attributes, mentions in rows[:limit])
    last = found[-1] if len(rows) > limit else None
    return NodePage(nodes=found, after=f"{last.mentions}|{last.id}" if last is not None else None)


def node_of(name: str, attributes: str | None, *, mentions: int = 0, degree: int = 0) -> Node:
    """A node as the contracts have it."""
    kind, _, bare = name.partition(":")
    return Node.model_construct(
        id=name, type=kind, name=bare, attributes=json.loads(attributes) if attributes else {},
        mentions=mentions, degree=degree,
    )  # fmt: skip


def known_nodes(cursor: Cursor, tenant: str) -> list[Known]:
    """All nodes, for the vocabulary, in the order in which they came to be known."""
    rows = cursor.execute(
        """SELECT key, id, origin, coalesce(mentioned, 0), coalesce(attributes, '') FROM nodes
        LEFT JOIN (SELECT node, count(*) AS mentioned FROM mentions WHERE tenant = $1 GROUP BY node) ON key = node
        WHERE tenant = $1 ORDER BY key""",
        [tenant],
    ).fetchall()
    return [Known(*row) for row in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphRows:
    """All of a tenant's graph as columns, and the log sequence at which it was read.

    Keys refer to `node_keys` and `memory_keys`, which ascend. Times are microseconds since 1970; open ends are the
    ends of the 64-bit range. `edge_*` are edges put by hand.
    """

    sequence: int
    node_keys: NDArray[np.int64]
    node_ids: list[str]
    attributes: dict[int, str]
    memory_keys: NDArray[np.int64]
    memory_ids: list[str]
    mention_node: NDArray[np.int64]
    mention_memory: NDArray[np.int64]
    types: list[str]
    evidence_source: NDArray[np.int64]
    evidence_target: NDArray[np.int64]
    evidence_type: NDArray[np.int64]
    evidence_memory: NDArray[np.int64]
    edges: list[tuple[int, str, int, float, datetime | None, datetime | None, list[str]]]


def graph(cursor: Cursor, tenant: str) -> GraphRows:
    """Everything the graph in memory is built from."""
    sequence = cursor.execute("SELECT sequence FROM watermark").fetchall()[0][0]
    node = cursor.execute("SELECT key, id, attributes FROM nodes WHERE tenant = $1 ORDER BY key", [tenant]).fetchall()
    memory_rows = cursor.execute(
        "SELECT key, id FROM memories WHERE tenant = $1 AND state <> 'forgotten' ORDER BY key", [tenant]
    ).fetchnumpy()
    mentions = cursor.execute("SELECT node, memory FROM mentions WHERE tenant = $1", [tenant]).fetchnumpy()
    types = [
        row[0]
        for row in cursor.execute(
            "SELECT DISTINCT type FROM evidence WHERE tenant = $1 ORDER BY 1", [tenant]
        ).fetchall()
    ]
    evidence = cursor.execute(
        """SELECT source, target, (list_position($2::VARCHAR[], type) - 1)::SMALLINT AS type, memory FROM evidence
        WHERE tenant = $1""",
        [tenant, types],
    ).fetchnumpy()
    edges = cursor.execute(
        "SELECT source, type, target, weight, valid_from, valid_to, evidence FROM edges WHERE tenant = $1", [tenant]
    ).fetchall()
    return GraphRows(
        sequence=sequence,
        node_keys=np.array([row[0] for row in node], np.int64),
        node_ids=[row[1] for row in node],
        attributes={row[0]: row[2] for row in node if row[2]},
        memory_keys=_plain(memory_rows["key"]),
        memory_ids=memory_rows["id"].tolist(),
        mention_node=_plain(mentions["node"]),
        mention_memory=_plain(mentions["memory"]),
        types=types,
        evidence_source=_plain(evidence["source"]),
        evidence_target=_plain(evidence["target"]),
        evidence_type=_plain(evidence["type"]),
        evidence_memory=_plain(evidence["memory"]),
        edges=[(*row[:4], aware(row[4]), aware(row[5]), row[6]) for row in edges],
    )


def graph_within(cursor: Cursor, tenant: str, within: Filters) -> GraphRows:
    """The same of these memories alone: nodes that they mention, edges found in them, nothing put by hand."""
    where, values = _where(tenant, within)
    own = f"tenant = ? AND memory IN (SELECT key FROM memories WHERE {where})"  # noqa: S608  # our text
    memory_rows = cursor.execute(f"SELECT key, id FROM memories WHERE {where} ORDER BY key", values).fetchnumpy()  # noqa: S608
    mentions = cursor.execute(f"SELECT node, memory FROM mentions WHERE {own}", [tenant, *values]).fetchnumpy()  # noqa: S608
    evidence = cursor.execute(
        f"SELECT source, target, type, memory FROM evidence WHERE {own}",  # noqa: S608  # our text
        [tenant, *values],
    ).fetchnumpy()
    types, codes = np.unique(np.asarray(evidence["type"], np.str_), return_inverse=True)
    source, target, mentioned = (_plain(each) for each in (evidence["source"], evidence["target"], mentions["node"]))
    keys = np.unique(np.concatenate([source, target, mentioned]))
    node = cursor.execute(
        "SELECT key, id FROM nodes WHERE tenant = $1 AND key IN (SELECT unnest($2::BIGINT[])) ORDER BY key",
        [tenant, keys.tolist()],
    ).fetchnumpy()
    return GraphRows(
        sequence=0, node_keys=_plain(node["key"]), node_ids=node["id"].tolist(), attributes={},
        memory_keys=_plain(memory_rows["key"]), memory_ids=memory_rows["id"].tolist(),
        mention_node=mentioned, mention_memory=_plain(mentions["memory"]),
        types=types.tolist(), evidence_source=source, evidence_target=target,
        evidence_type=codes.astype(np.int16), evidence_memory=_plain(evidence["memory"]), edges=[],
    )  # fmt: skip


def _plain(column: Any) -> Any:  # an array of any kind, masked where DuckDB saw room for NULLs
    return np.ma.getdata(column).astype(np.int64)


def _record(cursor: Cursor, tenant: str, memory_id: str) -> tuple[int, str]:
    rows = cursor.execute(
        "SELECT key, record FROM memories WHERE slot = $1 AND tenant = $2 AND id = $3 AND state <> 'forgotten'",
        [slot(tenant, memory_id), tenant, memory_id],
    ).fetchall()
    if not rows:
        raise NotFound(f"there is no memory {memory_id!r}")
    return rows[0][0], cursor.record(tenant, rows[0][1])


def _cursor_key(cursor: Cursor, tenant: str, memory_id: str) -> int:
    rows = cursor.execute(
        "SELECT key FROM memories WHERE slot = $1 AND tenant = $2 AND id = $3",
        [slot(tenant, memory_id), tenant, memory_id],
    ).fetchall()
    if not rows:
        raise Rejected("the list cannot go on from here: no such memory", field="after")
    return int(rows[0][0])


def _where(tenant: str, filters: Filters) -> tuple[str, list[Any]]:
    """The conditions for a tenant's living memories under these filters, and their values."""
    parts = ["tenant = ?", "state <> 'forgotten'"]
    values: list[Any] = [tenant]
    for condition, value in _conditions(filters):
        parts.append(condition)
        values += value
    return " AND ".join(parts), values


def _conditions(filters: Filters) -> Iterator[tuple[str, list[Any]]]:
    for column in ("user_id", "agent_id", "session_id", "speaker", "kind"):
        if (value := getattr(filters, column)) is not None:
            yield _one_of(column, value)
    if filters.tags:
        yield "list_has_all(tags, ?::VARCHAR[])", [list(filters.tags)]
    if filters.after is not None:
        yield "moment >= ?", [filters.after.replace(tzinfo=None)]
    if filters.before is not None:
        yield "moment < ?", [filters.before.replace(tzinfo=None)]
    for name, wanted in filters.metadata.items():
        yield _metadata(name, wanted)
    for name, asked in filters.ranges.items():
        for how, bound in asked.bounds().items():
            yield _compared(name, how, bound)
    yield from _combined(filters)


def _one_of(column: str, value: str | tuple[str, ...]) -> tuple[str, list[Any]]:
    if isinstance(value, str) or len(value) == 1:
        return f"{column} = ?", [value if isinstance(value, str) else value[0]]
    return f"list_contains(?::VARCHAR[], {column})", [list(value)]


def _combined(filters: Filters) -> Iterator[tuple[str, list[Any]]]:
    for each in filters.all_of:
        yield _together(each)
    if filters.any_of:
        found = [_together(each) for each in filters.any_of]
        yield f"({' OR '.join(text for text, _ in found)})", [value for _, values in found for value in values]
    for each in filters.none_of:
        text, values = _together(each)
        yield f"({text}) IS NOT TRUE", values


def _together(filters: Filters) -> tuple[str, list[Any]]:
    """One condition for all that a filter asks."""
    parts = list(_conditions(filters))
    text = " AND ".join(text for text, _ in parts) or "TRUE"
    return f"({text})", [value for _, values in parts for value in values]


def _metadata(name: str, wanted: str | int | float | bool) -> tuple[str, list[Any]]:
    """Equality with one value of the metadata; a whole number equals the same number with a point."""
    path = _path(name)
    if isinstance(wanted, str):
        return "json_type(record, ?) = 'VARCHAR' AND json_extract_string(record, ?) = ?", [path, path, wanted]
    if isinstance(wanted, bool):
        return "json_extract_string(record, ?) = ? AND json_type(record, ?) = 'BOOLEAN'", [
            path, "true" if wanted else "false", path,
        ]  # fmt: skip
    return (
        "json_type(record, ?) IN ('UBIGINT', 'BIGINT', 'DOUBLE', 'HUGEINT') "
        "AND try_cast(json_extract_string(record, ?) AS DOUBLE) = ?",
        [path, path, float(wanted)],
    )


COMPARISONS = {"gte": ">=", "gt": ">", "lte": "<=", "lt": "<"}
ISO = r"[1-9]\d{3}-\d\d-\d\d([T ]([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)?)?"
MOMENT = """
json_type(record, ?) = 'VARCHAR' AND regexp_full_match(json_extract_string(record, ?), ?) AND
CASE WHEN regexp_matches(json_extract_string(record, ?), '(Z|[+-]\\d\\d:\\d\\d)$')
THEN epoch_us(try_cast(json_extract_string(record, ?) AS TIMESTAMPTZ))
ELSE epoch_us(try_cast(json_extract_string(record, ?) AS TIMESTAMP)) END"""
"""Microseconds since 1970 of a text that is a date or a time; a cast to TIMESTAMP would leave out its zone."""


def _compared(name: str, how: str, bound: float | datetime) -> tuple[str, list[Any]]:
    """A value of the metadata against one bound of a range."""
    path = _path(name)
    if isinstance(bound, datetime):
        return f"{MOMENT} {COMPARISONS[how]} epoch_us(?::TIMESTAMP)", [
            path, path, ISO, path, path, path, bound.replace(tzinfo=None),
        ]  # fmt: skip
    return (
        "json_type(record, ?) IN ('UBIGINT', 'BIGINT', 'DOUBLE', 'HUGEINT') "
        f"AND try_cast(json_extract_string(record, ?) AS DOUBLE) {COMPARISONS[how]} ?",
        [path, path, bound],
    )


def _path(name: str) -> str:
    """Where a value of the metadata is in a record."""
    return "/metadata/" + name.replace("~", "~0").replace("/", "~1")


def place(after: str) -> tuple[int, str]:
    """Mentions and id of the node that a page of nodes ended with. Raises `Rejected` where it reads otherwise."""
    mentions, _, node = after.partition("|")
    if not mentions.isdecimal() or not node:
        raise Rejected("the list cannot go on from here: not a place in it", field="after")
    return int(mentions), node
