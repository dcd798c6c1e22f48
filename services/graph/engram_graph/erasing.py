"""Taking a tenant, or some of its memories, out of the record for good; and telling what is kept before."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from engram_contracts.erasing import (
    Compacted,
    CompactRecorded,
    Erased,
    EraseRecorded,
    ListOfUser,
    NamesPage,
)
from engram_contracts.errors import Unavailable
from engram_contracts.facts import Thought
from engram_contracts.ids import partition_of
from engram_graph.graphs import Graphs
from engram_graph.mending import MendingFollower
from engram_graph.partitions import Partitions
from engram_graph.store_duckdb import TABLES, Partition
from engram_graph.store_duckdb import Reading as Cursor
from engram_graph.vocabularies import Vocabularies

NAMED = {
    "memories": "SELECT count(*) FROM memories WHERE tenant = $1 AND list_contains($2::VARCHAR[], id)",
    "versions": """SELECT count(*) FROM versions WHERE tenant = $1 AND memory IN
        (SELECT key FROM memories WHERE tenant = $1 AND list_contains($2::VARCHAR[], id))""",
    "feedback": """SELECT count(*) FROM feedback WHERE tenant = $1 AND memory IN
        (SELECT key FROM memories WHERE tenant = $1 AND list_contains($2::VARCHAR[], id))""",
    "jobs": "SELECT count(*) FROM jobs WHERE tenant = $1 AND list_contains($2::VARCHAR[], memory_id)",
}
CITING = """
SELECT command, thought FROM jobs WHERE thought IS NOT NULL AND tenant = $1
AND list_bool_or(list_transform($2::VARCHAR[], lambda each: contains(thought, each)))
"""
NO_THOUGHTS = "DELETE FROM jobs WHERE tenant = $1 AND list_contains($2::VARCHAR[], command)"
NO_EVIDENCE = """
UPDATE edges SET evidence = list_filter(evidence, lambda each: NOT list_contains($2::VARCHAR[], each))
WHERE tenant = $1 AND list_has_any(evidence, $2::VARCHAR[])
"""
OF_USER = """
SELECT key, id FROM memories WHERE tenant = $tenant AND key > $after AND created_at <= $until
AND (user_id = $user OR key IN (SELECT memory FROM versions WHERE tenant = $tenant AND record->>'user_id' = $user))
ORDER BY key LIMIT $limit
"""


class Eraser:
    """Answers what erases. Nothing of a partition is applied while it is at work there."""

    def __init__(
        self,
        partitions: Partitions,
        followers: Mapping[int, MendingFollower],
        *,
        vocabularies: Vocabularies,
        graphs: Graphs,
        folder: Path,
    ) -> None:
        self._partitions = partitions
        self._followers = followers
        self._vocabularies = vocabularies
        self._graphs = graphs
        self._folder = folder / "compacting"

    async def erase(self, question: EraseRecorded) -> Erased:
        """Take rows out; how many, by table. Answers that cite one of the memories go with it."""
        number, follower = self._of(question.tenant)
        if not self._partitions.exists(number):
            return Erased()
        if question.memory_ids is None:
            return Erased(removed=await self._erase_tenant(number, follower, question.tenant))
        names = list(question.memory_ids)
        removed = await self._partitions.ask(number, lambda cursor: _counted(cursor, question.tenant, names))
        await follower.take_out(question.tenant, names)
        async with follower.standing_still:
            answers = await self._write(number, lambda cursor: _withdraw(cursor, question.tenant, names))
        return Erased(removed={**removed, "answers": answers})

    async def of_user(self, question: ListOfUser) -> NamesPage:
        """A page of a user's memories."""
        number, _ = self._of(question.tenant)
        if not self._partitions.exists(number):
            return NamesPage(names=())
        values = {
            "tenant": question.tenant,
            "user": question.user_id,
            "after": int(question.after or 0),
            "until": question.until.replace(tzinfo=None),
            "limit": question.limit,
        }
        rows = await self._partitions.ask(number, lambda cursor: cursor.execute(OF_USER, values).fetchall())
        after = str(rows[-1][0]) if len(rows) == question.limit else None
        return NamesPage(names=tuple(name for _, name in rows), after=after)

    async def compact(self, question: CompactRecorded) -> Compacted:
        """Write the partition's file anew, without what was taken out, and put it in the old one's place."""
        number, follower = self._of(question.tenant)
        if not self._partitions.exists(number):
            return Compacted()
        async with follower.standing_still:
            draft = self._folder / f"p{number}.duckdb"
            before, after = await self._partitions.writing(number, lambda partition: _copied(partition, draft))
            await self._partitions.replace(number, draft)
        return Compacted(before=before, after=after)

    async def _erase_tenant(self, number: int, follower: MendingFollower, tenant: str) -> dict[str, int]:
        async with follower.standing_still:
            removed: dict[str, int] = await self._write(number, lambda cursor: _emptied(cursor, tenant))
            await self._vocabularies.forget(lambda name: name == tenant)
            self._graphs.forget(tenant)
        return removed

    async def _write(self, number: int, work: Callable[[Cursor], Any]) -> Any:
        def written(partition: Partition) -> Any:
            with partition.reading() as cursor:
                done = work(cursor)
                cursor.execute("COMMIT")
                return done

        return await self._partitions.writing(number, written)

    def _of(self, tenant: str) -> tuple[int, MendingFollower]:
        number = partition_of(tenant)
        if number not in self._followers:
            raise Unavailable(f"partition {number} is not kept by this instance", retry_after=1)
        return number, self._followers[number]


def _counted(cursor: Cursor, tenant: str, names: Sequence[str]) -> dict[str, int]:
    return {table: int(cursor.execute(query, [tenant, names]).fetchall()[0][0]) for table, query in NAMED.items()}


def _withdraw(cursor: Cursor, tenant: str, names: Sequence[str]) -> int:
    """Take out answers that rest on the memories, and the memories out of what edges rest on; how many answers."""
    citing = [
        command
        for command, text in cursor.execute(CITING, [tenant, names]).fetchall()
        if any(cited.memory_id in names for cited in _read(cursor, tenant, text).citations)
    ]
    cursor.execute(NO_THOUGHTS, [tenant, citing])
    cursor.execute(NO_EVIDENCE, [tenant, names])
    return len(citing)


def _read(cursor: Cursor, tenant: str, text: str) -> Thought:
    return Thought.model_validate(json.loads(cursor.thought(tenant, text)))


def _emptied(cursor: Cursor, tenant: str) -> dict[str, int]:
    removed = {}
    for table in TABLES:
        rows = cursor.execute(f"DELETE FROM {table} WHERE tenant = $1", [tenant]).fetchall()  # noqa: S608  # our table
        removed[table] = int(rows[0][0])
    return removed


def _copied(partition: Partition, draft: Path) -> tuple[int, int]:
    """Copy all that the record holds to a new file; the bytes of both."""
    draft.parent.mkdir(parents=True, exist_ok=True)
    for old in (draft, draft.with_name(f"{draft.name}.wal")):
        old.unlink(missing_ok=True)
    return partition.copy_to(draft)
