"""The ledger in one DuckDB file: one writing thread, one transaction a batch, reads on cursors of their own.

DuckDB is fast in columns and slow in rows, so every statement takes whole lists (`unnest`). The tables carry no
index: its upkeep costs more than a batch's one look-up. That look-up scans 16 bytes a memory, and skips what
time-ordered ids rule out (500 keys against a million memories: 1.4 ms time-ordered, 7 ms random).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import duckdb

from engram_contracts.errors import EngramError, Rejected, Unavailable
from engram_contracts.questions import Meter, UsageFormat
from engram_contracts.topology import LOG, USAGE, Stream
from engram_contracts.trail import Head
from engram_metering.intake import Counted, CountedRequest, CountedUsage
from engram_metering.tally import Charge, Key, Known, Tally, is_time_ordered, request_key, wanted
from engram_runtime.service import Delivery
from engram_runtime.telemetry import OPEN_FAILURES
from engram_runtime.tracing import traced

T = TypeVar("T")

SCHEMA = """
CREATE TABLE IF NOT EXISTS ledger (
    tenant VARCHAR, event_id VARCHAR, meter VARCHAR, amount BIGINT, "at" TIMESTAMP, day DATE, stream_sequence BIGINT);
CREATE TABLE IF NOT EXISTS sizes (tenant VARCHAR, memory_id UUID, bytes BIGINT);
CREATE TABLE IF NOT EXISTS applied (tenant VARCHAR, event_id UUID);
CREATE TABLE IF NOT EXISTS positions (stream VARCHAR, sequence BIGINT);
ALTER TABLE positions ADD COLUMN IF NOT EXISTS appended TIMESTAMP;
CREATE TABLE IF NOT EXISTS heads (tenant VARCHAR, n BIGINT, hash VARCHAR);
"""
OPEN_POSITION = """
INSERT INTO positions (stream, sequence) SELECT $stream, 0 WHERE NOT EXISTS (FROM positions WHERE stream = $stream)
"""
SIZES = """
SELECT tenant, memory_id::VARCHAR, bytes FROM sizes WHERE memory_id IN (SELECT unnest($1::VARCHAR[])::UUID)
"""
APPLIED = """
SELECT tenant, event_id::VARCHAR FROM applied WHERE event_id IN (SELECT unnest($1::VARCHAR[])::UUID)
"""
REQUESTS = """
SELECT tenant, event_id FROM ledger
WHERE event_id IN (SELECT unnest($1::VARCHAR[])) AND meter = 'api_calls'
AND "at" BETWEEN make_timestamp($2::BIGINT) AND make_timestamp($3::BIGINT)
"""
CHARGE = """
INSERT INTO ledger SELECT tenant, event_id, meter, amount, make_timestamp(us), make_timestamp(us)::DATE, sequence
FROM (SELECT tenant, event_id, unnest(meters) AS meter, unnest(amounts) AS amount, us, sequence FROM (
    SELECT unnest($1) AS tenant, unnest($2) AS event_id, unnest($3) AS meters,
           unnest($4) AS amounts, unnest($5) AS us, unnest($6) AS sequence))
"""
NEW_SIZES = """
INSERT INTO sizes SELECT unnest($1::VARCHAR[]), unnest($2::VARCHAR[])::UUID, unnest($3::BIGINT[])
"""
CHANGED_SIZES = """
UPDATE sizes SET bytes = size
FROM (SELECT unnest($1::VARCHAR[]) AS t, unnest($2::VARCHAR[])::UUID AS id, unnest($3::BIGINT[]) AS size)
WHERE memory_id = id AND tenant = t
"""
NEW_APPLIED = "INSERT INTO applied SELECT unnest($1::VARCHAR[]), unnest($2::VARCHAR[])::UUID"
MOVE = "UPDATE positions SET sequence = $1, appended = $2 WHERE stream = $3 AND sequence < $1"
REWIND = "UPDATE positions SET sequence = $1 WHERE stream = $2"
NO_HEADS = "DELETE FROM heads WHERE tenant IN (SELECT unnest($1::VARCHAR[]))"
NEW_HEADS = "INSERT INTO heads SELECT unnest($1::VARCHAR[]), unnest($2::BIGINT[]), unnest($3::VARCHAR[])"
HEADS = "SELECT tenant, n, hash FROM heads WHERE $tenant IS NULL OR tenant = $tenant ORDER BY tenant"
HELD = (
    "SELECT count(*)::BIGINT, coalesce(sum(bytes), 0)::BIGINT FROM sizes WHERE tenant = $tenant AND bytes IS NOT NULL"
)
USED = """
SELECT coalesce(sum(amount) FILTER (meter = 'api_calls'), 0)::BIGINT,
       coalesce(sum(amount) FILTER (meter != 'api_calls'), 0)::BIGINT
FROM ledger WHERE tenant = $tenant AND day = $day AND meter IN ('api_calls', 'think_prompt_tokens',
    'think_completion_tokens', 'link_prompt_tokens', 'link_completion_tokens')
"""
SUM_UP = """
INSERT INTO ledger SELECT tenant, 'erased', meter, sum(amount)::BIGINT, day::TIMESTAMP, day, 0 FROM ledger
WHERE tenant = $1 AND event_id <> 'erased' AND ($2 IS NULL OR list_contains($2::VARCHAR[], event_id))
GROUP BY tenant, meter, day
"""
NO_DETAILS = """
DELETE FROM ledger
WHERE tenant = $1 AND event_id <> 'erased' AND ($2 IS NULL OR list_contains($2::VARCHAR[], event_id))
"""
FREED = """
INSERT INTO ledger SELECT $1, 'erased', unnest(['memories_deleted', 'storage_bytes']), unnest([number, -bytes]),
    $3::DATE::TIMESTAMP, $3::DATE, 0
FROM (SELECT count(bytes)::BIGINT AS number, sum(bytes)::BIGINT AS bytes FROM sizes
      WHERE tenant = $1 AND ($2 IS NULL OR list_contains($2::VARCHAR[], memory_id::VARCHAR))) WHERE number > 0
"""
UNSIZED = "DELETE FROM sizes WHERE tenant = $1 AND ($2 IS NULL OR list_contains($2::VARCHAR[], memory_id::VARCHAR))"
NONE_APPLIED = "DELETE FROM applied WHERE tenant = $1"
METERS = """
SELECT strftime(date_trunc($by, "at"), $form), meter, sum(amount)::BIGINT FROM ledger
WHERE tenant = $tenant AND day BETWEEN $first AND $last AND ($meter IS NULL OR meter = $meter)
GROUP BY ALL ORDER BY ALL
"""
FORMS = {"day": "%Y-%m-%d", "hour": "%Y-%m-%dT%H:00Z"}
EXPORTED_TOTALS = """
SELECT tenant, strftime(date_trunc($by, "at"), $form) AS period, meter, sum(amount)::BIGINT AS amount FROM ledger
WHERE tenant = $tenant AND day BETWEEN $first AND $last GROUP BY ALL ORDER BY ALL
"""
EXPORTED_EVENTS = """
SELECT tenant, strftime("at", '%Y-%m-%dT%H:%M:%S.%fZ') AS "at", event_id, meter, amount FROM ledger
WHERE tenant = $tenant AND day BETWEEN $first AND $last ORDER BY ALL
"""
SIZED = "SELECT tenant, memory_id::VARCHAR FROM sizes WHERE memory_id IN (SELECT unnest($ids::VARCHAR[])::UUID)"


@contextlib.asynccontextmanager
async def open_ledger(file: Path, *, memory_mb: int = 128) -> AsyncIterator[DuckLedger]:
    """The ledger in `file`, created where there is none; closing finishes what is being written.

    Raises `Unavailable` when another process holds the file, or it cannot be opened.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
    try:
        connection = await asyncio.get_running_loop().run_in_executor(thread, _connect, file, memory_mb)
        try:
            yield DuckLedger(connection, thread)
        finally:
            await asyncio.get_running_loop().run_in_executor(thread, connection.close)
    finally:
        thread.shutdown()


class DuckLedger:
    """See `Ledger`. Writes queue for one thread, so a position read is never older than a write begun before it."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, thread: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._thread = thread

    async def post_facts(self, facts: Sequence[Delivery[Counted]], heads: Sequence[Head] = ()) -> None:
        """See `Ledger.post_facts`."""
        await self._write(partial(self._post_facts, facts, heads))

    async def post_usage(self, batches: Sequence[Delivery[CountedUsage]], heads: Sequence[Head] = ()) -> None:
        """See `Ledger.post_usage`."""
        await self._write(partial(self._post_usage, batches, heads))

    async def standing(self, tenant: str, day: date) -> dict[str, int]:
        """See `Ledger.standing`."""
        held = (await asyncio.to_thread(self._read, HELD, {"tenant": tenant}))[0]
        used = (await asyncio.to_thread(self._read, USED, {"tenant": tenant, "day": day}))[0]
        return dict(zip(("memories", "storage_bytes", "calls", "think_tokens"), (*held, *used), strict=True))

    async def heads(self, tenant: str | None) -> list[Head]:
        """See `Ledger.heads`."""
        rows = await asyncio.to_thread(self._read, HEADS, {"tenant": tenant})
        return [Head(tenant=owner, n=n, hash=digest) for owner, n, digest in rows]

    async def position(self, stream: str) -> int:
        """See `Ledger.position`."""
        return await self._write(partial(self._position, stream))

    async def appended(self, stream: str) -> datetime | None:
        """See `Ledger.appended`."""
        return await self._write(partial(self._appended, stream))

    async def rewind(self, stream: str, sequence: int) -> None:
        """See `Ledger.rewind`."""
        await self._write(lambda: self._connection.execute(REWIND, [sequence, stream]))

    async def meters(
        self, tenant: str, first: date, last: date, *, meter: str | None, by: Literal["day", "hour"] = "day"
    ) -> list[Meter]:
        """See `Ledger.meters`."""
        asked = {"tenant": tenant, "first": first, "last": last, "meter": meter, "by": by, "form": FORMS[by]}
        rows = await asyncio.to_thread(self._read, METERS, asked)
        return [Meter(day=day, meter=name, total=total) for day, name, total in rows]

    async def ping(self) -> None:
        """See `Ledger.ping`."""
        await asyncio.to_thread(self._read, "SELECT 1", {})

    async def export(
        self, tenant: str, first: date, last: date, *, by: Literal["day", "hour", "event"], form: UsageFormat,
        file: Path,
    ) -> None:  # fmt: skip
        """Write a tenant's charges, or their totals, into a file."""
        asked: dict[str, object] = {"tenant": tenant, "first": first, "last": last}
        if by != "event":
            asked |= {"by": by, "form": FORMS[by]}
        query = EXPORTED_EVENTS if by == "event" else EXPORTED_TOTALS
        await asyncio.to_thread(self._export, query, asked, form, file)

    async def knows(self, keys: Sequence[Key]) -> set[Key]:
        """Which of these memories have a size, or had one."""
        return set(await self.read(SIZED, {"ids": [key for _, key in keys]})) if keys else set()

    async def read(self, query: str, parameters: Mapping[str, object]) -> list[Any]:
        """Rows as DuckDB types them, read beside what is being written."""
        return await asyncio.to_thread(self._read, query, parameters)

    async def post_anew(self, facts: Sequence[Delivery[Counted]], removals: Sequence[tuple[str, list[object]]]) -> None:
        """Take rows out, then count facts of which nothing is known any more; in one transaction, without moving on."""
        await self._write(partial(self._post_anew, facts, removals))

    async def erase(self, tenant: str, names: list[str] | None, commands: list[str], *, day: date) -> dict[str, int]:
        """Put sums by day in the place of what these commands were charged, and take out these memories' sizes.

        Without names, of the whole tenant. What is freed counts on `day`. A repeat changes nothing.
        """
        return await self._write(partial(self._erase, tenant, names, commands, day))

    @traced("write duckdb", "client", {"db.system.name": "duckdb", "db.operation.name": "TRANSACTION"})
    async def _write(self, work: Callable[[], T]) -> T:
        with _translated():
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _read(self, query: str, parameters: Mapping[str, object]) -> list[Any]:
        with _translated(), self._connection.cursor() as cursor:
            return cursor.execute(query, dict(parameters)).fetchall()

    def _export(self, query: str, parameters: Mapping[str, object], form: UsageFormat, file: Path) -> None:
        with _translated(), self._connection.cursor() as cursor:
            found = cursor.sql(query, params=dict(parameters))
            if form == "csv":
                found.write_csv(str(file), header=True)
            else:
                found.write_parquet(str(file))

    def _post_facts(self, facts: Sequence[Delivery[Counted]], heads: Sequence[Head]) -> None:
        with self._transaction():
            self._store_heads(heads)
            tally = Tally(known := self._known(facts))
            for fact in facts:
                tally.add(fact)
            self._store_charges(tally.charges)
            self._store_state(tally, known)
            self._move(facts[-1], LOG)

    def _post_anew(self, facts: Sequence[Delivery[Counted]], removals: Sequence[tuple[str, list[object]]]) -> None:
        with self._transaction():
            for statement, values in removals:
                self._connection.execute(statement, values)
            tally = Tally(known := Known())
            for fact in facts:
                tally.add(fact)
            self._store_charges(tally.charges)
            self._store_state(tally, known)

    def _post_usage(self, batches: Sequence[Delivery[CountedUsage]], heads: Sequence[Head]) -> None:
        events = [(batch.sequence, event) for batch in batches for event in batch.message.events]
        with self._transaction():
            self._store_heads(heads)
            tally = Tally(known := Known(applied=self._known_requests([event for _, event in events])))
            for sequence, event in events:
                tally.add_request(sequence, event)
            self._store_charges(tally.charges)
            self._store_state(tally, known)
            self._move(batches[-1], USAGE)

    def _erase(self, tenant: str, names: list[str] | None, commands: list[str], day: date) -> dict[str, int]:
        charged = None if names is None else commands
        with self._transaction():
            self._connection.execute(SUM_UP, [tenant, charged])
            details = self._removed(NO_DETAILS, [tenant, charged])
            self._connection.execute(FREED, [tenant, names, day])
            sizes = self._removed(UNSIZED, [tenant, names])
            if names is None:
                self._connection.execute(NONE_APPLIED, [tenant])
        return {"details": details, "sizes": sizes}

    def _removed(self, statement: str, values: list[object]) -> int:
        row = self._connection.execute(statement, values).fetchone()
        return int(row[0]) if row else 0

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(duckdb.Error):
                self._connection.execute("ROLLBACK")
            raise

    def _position(self, stream: str) -> int:
        row = self._connection.execute("SELECT sequence FROM positions WHERE stream = $1", [stream]).fetchone()
        return int(row[0]) if row else 0

    def _appended(self, stream: str) -> datetime | None:
        row = self._connection.execute("SELECT appended FROM positions WHERE stream = $1", [stream]).fetchone()
        return row[0].replace(tzinfo=UTC) if row and row[0] else None

    def _move(self, last: Delivery[Any], stream: Stream) -> None:
        """Set the position to the last that was counted."""
        appended = last.at.astimezone(UTC).replace(tzinfo=None)
        self._connection.execute(MOVE, [last.sequence, appended, stream.name])

    def _known(self, facts: Sequence[Delivery[Counted]]) -> Known:
        keys = wanted(facts)
        sizes = self._look_up(SIZES, keys.sizes)
        applied = self._look_up(APPLIED, keys.applied)
        return Known({(tenant, key): size for tenant, key, size in sizes}, set(applied))

    def _look_up(self, query: str, keys: Sequence[Key]) -> list[Any]:  # rows as DuckDB types them
        """Rows under these ids, of whichever tenant; what is made of them is keyed by tenant and id."""
        return self._connection.execute(query, [[key for _, key in keys]]).fetchall() if keys else []

    def _known_requests(self, events: Sequence[CountedRequest]) -> set[Key]:
        """Which of these were counted. For time-ordered ids the ledger tells, within the times of the batch."""
        timed = [event for event in events if is_time_ordered(event.request_id)]
        other = [request_key(event) for event in events if not is_time_ordered(event.request_id)]
        known = set(self._look_up(APPLIED, other))
        if timed:
            times = [event.at for event in timed]
            asked = [[event.request_id for event in timed], _us(min(times)), _us(max(times))]
            known.update(self._connection.execute(REQUESTS, asked).fetchall())
        return known

    def _store_charges(self, charges: Sequence[Charge]) -> None:
        if charges:
            rows = [(c.tenant, c.event_id, [*c.amounts], [*c.amounts.values()], _us(c.at), c.sequence) for c in charges]
            self._connection.execute(CHARGE, _columns(rows))

    def _store_heads(self, heads: Sequence[Head]) -> None:
        if heads:
            self._connection.execute(NO_HEADS, [[head.tenant for head in heads]])
            self._connection.execute(NEW_HEADS, _columns([(head.tenant, head.n, head.hash) for head in heads]))

    def _store_state(self, tally: Tally, known: Known) -> None:
        new = [(*key, size) for key, size in tally.sizes.items() if key not in known.sizes]
        changed = [(*key, size) for key, size in tally.sizes.items() if key in known.sizes]
        applied = [key for key in tally.applied if not is_time_ordered(key[1])]
        for statement, rows in ((NEW_SIZES, new), (CHANGED_SIZES, changed), (NEW_APPLIED, applied)):
            if rows:
                self._connection.execute(statement, _columns(rows))


def _connect(file: Path, memory_mb: int) -> duckdb.DuckDBPyConnection:
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        connection = duckdb.connect(str(file), config={"threads": 1, "memory_limit": f"{memory_mb}MB"})
        connection.execute(SCHEMA)
        for stream in (LOG, USAGE):
            connection.execute(OPEN_POSITION, {"stream": stream.name})
    except duckdb.IOException as error:
        OPEN_FAILURES.labels("ledger").inc()
        raise Unavailable(_why_closed(file, error)) from error
    return connection


def _why_closed(file: Path, error: duckdb.IOException) -> str:
    if "lock" in str(error):
        return f"the ledger {str(file)!r} is held by another process; one metering service runs per data directory"
    return f"the ledger {str(file)!r} cannot be opened: {str(error)[:200]}"


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """DuckDB's errors as the family's: what the data is to blame for will never work, all else may later."""
    try:
        yield
    except EngramError:
        raise
    except duckdb.DataError as error:
        raise Rejected(f"the ledger cannot hold this: {type(error).__name__}") from error
    except duckdb.Error as error:
        raise Unavailable(f"the ledger does not answer: {type(error).__name__}", retry_after=1.0) from error


def _columns(rows: Sequence[Sequence[object]]) -> list[list[object]]:
    return [list(column) for column in zip(*rows, strict=True)]


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _us(moment: datetime) -> int:
    """Microseconds since 1970."""
    return (moment - _EPOCH) // timedelta(microseconds=1)
