"""The balance: what the log expects and what each store keeps, side by side in a file that is thrown away.

SQLite holds what may not fit in memory; of texts it sees digests and sizes alone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from engram_contracts.auditing import Applied, Kept
from engram_contracts.ids import derived_id
from engram_recovery.expecting import Effect, Expected

Store = Literal["index", "record", "ledger"]
STORES: tuple[Store, ...] = ("index", "record", "ledger")
STAGE: dict[Store, str] = {"index": "vectors", "record": "graph", "ledger": "metering"}

SCHEMA = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -32000; PRAGMA temp_store = FILE;
CREATE TABLE commands (tenant, command, PRIMARY KEY (tenant, command)) WITHOUT ROWID;
CREATE TABLE expected (tenant, id, uid, version, size, digest, known, PRIMARY KEY (tenant, id)) WITHOUT ROWID;
CREATE TABLE effects (sequence INTEGER PRIMARY KEY, tenant, event, command, id, created, deleted, size, metered);
CREATE TABLE kept (store, tenant, id, uid, version, size, digest, whole,
    PRIMARY KEY (store, tenant, uid)) WITHOUT ROWID;
CREATE TABLE jobs (tenant, command, sequence, id, PRIMARY KEY (tenant, command)) WITHOUT ROWID;
CREATE TABLE charges (tenant, command, sequence, created, deleted, size);
CREATE TABLE accesses (tenant, id, times, at, sequence, PRIMARY KEY (tenant, id)) WITHOUT ROWID;
CREATE TABLE moved (tenant, uid, PRIMARY KEY (tenant, uid)) WITHOUT ROWID;
CREATE TABLE dead (stage, sequence, letter, PRIMARY KEY (stage, sequence)) WITHOUT ROWID;
CREATE TABLE strays (point PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE truth (tenant, uid, id, version, size, digest, source, PRIMARY KEY (tenant, uid)) WITHOUT ROWID;
CREATE TABLE found (store, tenant, uid, id, kind, PRIMARY KEY (store, tenant, uid)) WITHOUT ROWID;
"""
INDEXES = """
CREATE INDEX effects_of ON effects (tenant, id);
CREATE INDEX jobs_of ON jobs (tenant, id);
CREATE INDEX charges_of ON charges (tenant, command);
"""
TRUTH = """
INSERT INTO truth SELECT tenant, uid, id, version, size, digest, 'log' FROM expected WHERE known;
INSERT OR IGNORE INTO truth SELECT tenant, uid, id, version, size, digest, 'record' FROM kept
    WHERE store = 'record' AND EXISTS (SELECT 1 FROM jobs WHERE jobs.tenant = kept.tenant AND jobs.id = kept.id);
"""
LACKING = """
INSERT OR IGNORE INTO found SELECT :store, t.tenant, t.uid, t.id,
    CASE WHEN k.uid IS NULL OR k.version = 0 THEN 'missing'
         WHEN k.version < t.version AND :store <> 'ledger' THEN 'older'
         WHEN k.version > t.version AND :store <> 'ledger' THEN 'newer'
         ELSE 'damaged' END
FROM truth t LEFT JOIN kept k ON k.store = :store AND k.tenant = t.tenant AND k.uid = t.uid
WHERE t.version > 0 AND (k.uid IS NULL OR k.version = 0 OR NOT k.whole OR k.size <> t.size
    OR (:store <> 'ledger' AND (k.version <> t.version OR k.digest <> t.digest)))
"""
SURPLUS = """
INSERT OR IGNORE INTO found SELECT store, k.tenant, k.uid, k.id, 'surplus'
FROM kept k LEFT JOIN truth t ON t.tenant = k.tenant AND t.uid = k.uid
WHERE store = :store AND k.version > 0 AND (t.uid IS NULL OR t.version = 0)
"""
UNPAID = """
INSERT OR IGNORE INTO found SELECT 'ledger', e.tenant, x.uid, e.id, 'damaged'
FROM effects e JOIN expected x ON x.tenant = e.tenant AND x.id = e.id
LEFT JOIN (SELECT tenant, command, sum(created) AS created, sum(deleted) AS deleted, sum(size) AS size
           FROM charges GROUP BY tenant, command) c ON c.tenant = e.tenant AND c.command = e.command
WHERE e.metered AND (coalesce(c.created, 0), coalesce(c.deleted, 0), coalesce(c.size, 0))
      <> (e.created, e.deleted, e.size)
"""
OVERPAID = """
INSERT OR IGNORE INTO found SELECT 'ledger', c.tenant, 'command ' || c.command, c.command, 'overpaid' FROM charges c
WHERE NOT EXISTS (SELECT 1 FROM commands s WHERE s.tenant = c.tenant AND s.command = c.command)
AND NOT EXISTS (SELECT 1 FROM jobs j LEFT JOIN truth t ON t.tenant = j.tenant AND t.uid = uid_of(j.id)
                WHERE j.tenant = c.tenant AND j.command = c.command AND t.source IS NOT 'log')
"""
NOT_APPLIED = """
INSERT OR IGNORE INTO found SELECT 'record', e.tenant, 'command ' || e.command, coalesce(e.id, e.command),
    CASE WHEN e.id IS NOT NULL AND x.known THEN 'damaged' ELSE 'unapplied' END
FROM effects e LEFT JOIN jobs j ON j.tenant = e.tenant AND j.command = e.command
LEFT JOIN expected x ON x.tenant = e.tenant AND x.id = e.id
WHERE j.command IS NULL
AND NOT EXISTS (SELECT 1 FROM found f WHERE f.store = 'record' AND f.tenant = e.tenant AND f.id = e.id)
AND NOT EXISTS (SELECT 1 FROM dead d WHERE d.stage = 'graph' AND d.sequence = e.sequence)
"""
SETTLED = "DELETE FROM found WHERE EXISTS (SELECT 1 FROM moved m WHERE m.tenant = found.tenant AND m.uid = found.uid)"
LISTED = """
SELECT f.store, f.tenant, f.id, f.uid, f.kind, (
    SELECT max(d.letter) FROM effects e JOIN dead d ON d.sequence = e.sequence
    WHERE e.tenant = f.tenant AND e.id = f.id AND d.stage = :vectors AND f.store = 'index'
       OR e.tenant = f.tenant AND e.id = f.id AND d.stage = :graph AND f.store = 'record'
       OR e.tenant = f.tenant AND e.id = f.id AND d.stage = :metering AND f.store = 'ledger'), t.source
FROM found f LEFT JOIN truth t ON t.tenant = f.tenant AND t.uid = f.uid
WHERE (:store IS NULL OR f.store = :store) AND (f.store, f.tenant, f.uid) > (:s, :t, :u)
ORDER BY f.store, f.tenant, f.uid LIMIT :limit
"""


class Difference(NamedTuple):
    """Where a store is not as it should be. `letter` is the dead letter in which a fact of it lies, `source` what
    says how it should be: the log, or the record where the log no longer does."""

    store: Store
    tenant: str
    id: str
    uid: str
    kind: str
    letter: int | None
    source: str | None


class Balance:
    """Fulfils `expecting.Keeper`; rows are put in, then `settle`, then differences are read."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    @classmethod
    @contextmanager
    def open(cls, folder: Path) -> Iterator[Balance]:
        """A new balance in a folder."""
        with closing(sqlite3.connect(folder / "balance.sqlite", isolation_level=None)) as database:
            database.executescript(SCHEMA)
            database.execute("BEGIN")
            yield cls(database)

    # what the log expects

    def is_first(self, tenant: str, command: str) -> bool:
        """See `Keeper.is_first`."""
        return self._database.execute("INSERT OR IGNORE INTO commands VALUES (?, ?)", (tenant, command)).rowcount > 0

    def find(self, tenant: str, memory_id: str) -> Expected | None:
        """See `Keeper.find`."""
        query = "SELECT version, size, digest, known FROM expected WHERE tenant = ? AND id = ?"
        row = self._database.execute(query, (tenant, memory_id)).fetchone()
        return Expected(version=row[0], size=row[1], digest=row[2], known=bool(row[3])) if row else None

    def keep(self, tenant: str, memory_id: str, expected: Expected) -> None:
        """See `Keeper.keep`."""
        row = (tenant, memory_id, uid_of(memory_id), expected.version, expected.size, expected.digest, expected.known)
        self._database.execute("INSERT OR REPLACE INTO expected VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def note(self, effect: Effect) -> None:
        """See `Keeper.note`."""
        sequence, tenant, event, command, memory_id, *amounts = effect
        self._database.execute(
            "INSERT OR REPLACE INTO effects VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (sequence, tenant, event, command, memory_id, *amounts),
        )

    def access(self, tenant: str, memory_id: str, times: int, *, at: datetime, sequence: int) -> None:
        """See `Keeper.access`."""
        self._database.execute(
            "INSERT INTO accesses VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET times = times + excluded.times, "
            "at = excluded.at, sequence = excluded.sequence",
            (tenant, memory_id, times, at.isoformat(), sequence),
        )

    # what the stores keep

    def add_kept(self, store: Store, kept: Iterable[Kept]) -> None:
        """Take in what a store keeps."""
        rows = ((store, k.tenant, k.id, uid_of(k.id), k.version, k.size, k.digest, k.whole) for k in kept)
        self._database.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def add_jobs(self, applied: Iterable[Applied]) -> None:
        """Take in what took effect in the record."""
        rows = ((each.tenant, each.command, each.sequence, each.memory_id) for each in applied)
        self._database.executemany("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?)", rows)

    def add_charges(self, applied: Iterable[Applied]) -> None:
        """Take in what the ledger charged."""
        rows = ((a.tenant, a.command, a.sequence, a.created, a.deleted, a.size) for a in applied)
        self._database.executemany("INSERT INTO charges VALUES (?, ?, ?, ?, ?, ?)", rows)

    def add_strays(self, points: Iterable[str]) -> None:
        """Take in points that belong to no memory."""
        self._database.executemany("INSERT OR IGNORE INTO strays VALUES (?)", ((point,) for point in points))

    def add_dead(self, letters: Iterable[tuple[str, int, int]]) -> None:
        """Take in dead letters of facts: stage, sequence of the fact, sequence of the letter."""
        self._database.executemany("INSERT OR REPLACE INTO dead VALUES (?, ?, ?)", letters)

    def add_moved(self, tenant: str, name: str) -> None:
        """A memory, or a command, that changed beyond the cut: whatever differs there does not count."""
        self._database.executemany(
            "INSERT OR IGNORE INTO moved VALUES (?, ?)", ((tenant, uid_of(name)), (tenant, f"command {name}"))
        )

    # the balance

    def settle(self) -> None:
        """Compare everything.

        A command that was charged, and is not on the log, has to be in the record, of a memory that it speaks for.
        """
        database = self._database
        database.execute("COMMIT")
        database.create_function("uid_of", 1, lambda name: name and uid_of(name), deterministic=True)
        database.executescript(INDEXES)
        database.executescript(TRUTH)
        for store in STORES:
            database.execute(LACKING, {"store": store})
            database.execute(SURPLUS, {"store": store})
        database.execute(UNPAID)
        database.execute(OVERPAID)
        database.execute(NOT_APPLIED)
        database.execute(SETTLED)

    def differences(self, store: Store | None = None, *, page: int = 500) -> Iterator[Difference]:
        """All differences, page by page, in order."""
        after: Sequence[Any] = ("", "", "")
        stages = {stage: stage for stage in STAGE.values()}
        while True:
            values = {**stages, "store": store, "s": after[0], "t": after[1], "u": after[2], "limit": page}
            rows = self._database.execute(LISTED, values).fetchall()
            yield from (Difference(*row) for row in rows)
            if len(rows) < page:
                return
            after = (rows[-1][0], rows[-1][1], rows[-1][3])

    def expected_ids(self) -> Iterator[Difference]:
        """Every memory there should be, as if the index were wrong about each."""
        query = "SELECT tenant, id, uid, source FROM truth WHERE version > 0 ORDER BY tenant, uid"
        for tenant, name, uid, source in self._database.execute(query):
            yield Difference("index", tenant, name, uid, "renewed", None, source)

    def strays(self) -> list[str]:
        """Points that belong to no memory; at most 1,000."""
        return [row[0] for row in self._database.execute("SELECT point FROM strays LIMIT 1000")]

    def sequences(self, tenant: str, memory_id: str, events: Sequence[str]) -> tuple[int, ...]:
        """Where the facts lie that make a memory, those of some events."""
        query = "SELECT sequence, event FROM effects WHERE tenant = ? AND id = ? ORDER BY sequence"
        rows = self._database.execute(query, (tenant, memory_id)).fetchall()
        return tuple(sequence for sequence, event in rows if event in events)

    def accesses(self, tenant: str, memory_id: str) -> tuple[int, datetime | None, int]:
        """How often a memory was recalled, when last, and where on the log that stands."""
        query = "SELECT times, at, sequence FROM accesses WHERE tenant = ? AND id = ?"
        row = self._database.execute(query, (tenant, memory_id)).fetchone()
        return (row[0], datetime.fromisoformat(row[1]), row[2]) if row else (0, None, 0)

    def jobs(self, tenant: str, memory_id: str) -> list[tuple[str, int]]:
        """The commands that took effect on a memory, in order, and where on the log that was."""
        query = "SELECT command, sequence FROM jobs WHERE tenant = ? AND id = ? ORDER BY sequence"
        return self._database.execute(query, (tenant, memory_id)).fetchall()

    def counts(self) -> dict[str, dict[str, int]]:
        """Live memories by tenant, as they should be and in each store."""
        counts: dict[str, dict[str, int]] = {}
        for tenant, number in self._database.execute(
            "SELECT tenant, count(*) FROM truth WHERE version > 0 GROUP BY tenant"
        ):
            counts.setdefault(tenant, {})["expected"] = number
        for store, tenant, number in self._database.execute(
            "SELECT store, tenant, count(*) FROM kept WHERE version > 0 GROUP BY store, tenant"
        ):
            counts.setdefault(tenant, {})[store] = number
        return {tenant: dict.fromkeys(("expected", *STORES), 0) | found for tenant, found in sorted(counts.items())}

    def tallies(self) -> list[tuple[str, str, str, int]]:
        """How many differences there are by store, tenant and kind."""
        query = "SELECT store, tenant, kind, count(*) FROM found GROUP BY store, tenant, kind ORDER BY 1, 2, 3"
        return self._database.execute(query).fetchall()


def uid_of(memory_id: str) -> str:
    """What the ledger calls a memory: its id where that is a UUID, else one derived from it."""
    return memory_id if _is_uuid(memory_id) else derived_id(memory_id)


def _is_uuid(text: str) -> bool:
    parts = text.split("-")
    return [len(part) for part in parts] == [8, 4, 4, 4, 12] and all(
        character in "0123456789abcdef" for part in parts for character in part
    )
