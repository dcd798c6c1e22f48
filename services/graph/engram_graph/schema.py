"""The tables of a partition file, and the steps that bring an older file up to date.

Every table carries the tenant. Rows refer to each other by `key`, a number that is unique within the file:
memories and nodes are counted up by the single writer. `slot` is crc32 of `tenant/id`: four bytes that can be
scanned at a gigabyte a second stand in for an index, because DuckDB keeps the whole of an ART index in memory
and refuses to commit once it no longer fits `memory_limit`. Times are UTC.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

FIRST = """
CREATE TABLE watermark (sequence BIGINT, next_memory BIGINT, next_node BIGINT);
INSERT INTO watermark VALUES (0, 1, 1);

CREATE TABLE memories (
    tenant VARCHAR, slot UINTEGER, key BIGINT, id VARCHAR, version INTEGER, state VARCHAR,
    created_at TIMESTAMP, updated_at TIMESTAMP, moment TIMESTAMP, expires_at TIMESTAMP,
    user_id VARCHAR, agent_id VARCHAR, session_id VARCHAR, kind VARCHAR, speaker VARCHAR, tags VARCHAR[],
    record VARCHAR);
COMMENT ON COLUMN memories.moment IS 'occurred_at, or created_at where there is none';
COMMENT ON COLUMN memories.record IS 'the whole current record as JSON; NULL once forgotten';

CREATE TABLE versions (
    tenant VARCHAR, memory BIGINT, version INTEGER, since TIMESTAMP, change VARCHAR, record VARCHAR);
COMMENT ON TABLE versions IS 'versions that were replaced; the current one is in memories';

CREATE TABLE jobs (
    tenant VARCHAR, slot UINTEGER, command VARCHAR, memory_id VARCHAR, op VARCHAR, accepted_at TIMESTAMP,
    embedded_at TIMESTAMP, linked_at TIMESTAMP, log_sequence BIGINT, thought VARCHAR);

CREATE TABLE nodes (tenant VARCHAR, key BIGINT, id VARCHAR, origin VARCHAR, attributes VARCHAR);
COMMENT ON COLUMN nodes.origin IS 'rule or model: goes with its last mention; manual: stays until dropped';

CREATE TABLE mentions (tenant VARCHAR, memory BIGINT, node BIGINT, origin VARCHAR);

CREATE TABLE evidence (
    tenant VARCHAR, source BIGINT, type VARCHAR, target BIGINT, memory BIGINT, origin VARCHAR);
COMMENT ON TABLE evidence IS 'one row for each edge and memory it was found in; their number is the weight';

CREATE TABLE edges (
    tenant VARCHAR, source BIGINT, type VARCHAR, target BIGINT, weight DOUBLE,
    valid_from TIMESTAMP, valid_to TIMESTAMP, evidence VARCHAR[]);
COMMENT ON TABLE edges IS 'edges put by hand, a row for each stretch of validity; they stand before found ones';

CREATE VIEW all_edges AS
    SELECT tenant, source, type, target, weight, valid_from, valid_to, 'manual' AS origin FROM edges
    UNION ALL
    SELECT tenant, source, type, target, count(*)::DOUBLE, NULL, NULL, any_value(origin)
    FROM evidence GROUP BY tenant, source, type, target;
"""

FEEDBACK = """
CREATE TABLE feedback (
    tenant VARCHAR, memory BIGINT, version INTEGER, given TIMESTAMP, verdict VARCHAR, query VARCHAR, note VARCHAR,
    actor VARCHAR, log_sequence BIGINT);
COMMENT ON TABLE feedback IS 'one row for each verdict on a memory; their numbers are in its record';
"""

APPENDED = """
ALTER TABLE watermark ADD COLUMN appended TIMESTAMP;
COMMENT ON COLUMN watermark.appended IS 'when the fact at the sequence was appended to the log; NULL: not known';
"""

MIGRATIONS: tuple[str, ...] = (FIRST, FEEDBACK, APPENDED)
"""Each script takes a file from the version of its position to the next; never edit one that was released."""


def migrate(connection: DuckDBPyConnection) -> None:
    """Bring the file to the newest version, one transaction a step. Raises `ValueError` for a file of the future."""
    connection.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER)")
    version = connection.execute("SELECT coalesce(max(version), 0) FROM schema_version").fetchall()[0][0]
    if version > len(MIGRATIONS):
        raise ValueError(f"schema version {version} is newer than this release knows ({len(MIGRATIONS)}); upgrade it")
    for number in range(version, len(MIGRATIONS)):
        connection.execute("BEGIN")
        connection.execute(MIGRATIONS[number])
        connection.execute("INSERT INTO schema_version VALUES (?)", [number + 1])
        connection.execute("COMMIT")


def slot(tenant: str, name: str) -> int:
    """The number under which a tenant's memory or command is found."""
    return zlib.crc32(f"{tenant}/{name}".encode())
