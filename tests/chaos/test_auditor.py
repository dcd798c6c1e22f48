"""The auditor sees what it is there to see: each store is damaged by hand, and each damage is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from engram_contracts.ids import partition_of
from support.audit import Buried, Verdict, audit, dead_letters, until_drained
from support.journal import Journal, fingerprint
from support.stormy import TENANTS, keys_for, running
from support.traffic import Mix, Traffic

TENANT = TENANTS[0]


@pytest.fixture(scope="module")
async def aftermath(tmp_path_factory: pytest.TempPathFactory) -> tuple[Journal, Path, list[Buried]]:
    """What a quiet run leaves behind."""
    folder = tmp_path_factory.mktemp("audited")
    journal = Journal(folder / "journal.jsonl")
    async with running(folder / "engram") as system:
        keys = await keys_for(system.nats, system.data_dir, TENANTS[:2])
        traffic = Traffic(system.url, keys, journal, seed=1, mix=Mix(writes=100.0, revise=0.1, forget=0.1))
        async with traffic.flowing():
            await traffic.written(150, seconds=30)
        await until_drained(system.nats, within=30.0)
        dead = await dead_letters(system.nats)
    assert traffic.wrong == []
    return journal, folder / "engram" / "data", dead


def test_a_quiet_run_is_without_fault(aftermath: tuple[Journal, Path, list[Buried]]) -> None:
    journal, data_dir, dead = aftermath

    verdict = audit(journal, data_dir, dead)

    assert verdict.faults == {}
    assert verdict.acked == journal.written >= 150


async def test_an_acknowledgement_without_its_memory_is_a_loss(
    aftermath: tuple[Journal, Path, list[Buried]], tmp_path: Path
) -> None:
    journal, data_dir, dead = aftermath
    other = Journal(tmp_path / "more.jsonl")
    other.sent, other.unsure = journal.sent, journal.unsure
    await other.acknowledge(
        *journal.lines(), {"op": "remember", "tenant": TENANT, "id": "never", "hash": fingerprint("x"), "at": 0.0}
    )

    verdict = audit(other, data_dir, dead)

    assert verdict.lost == [f"{TENANT}/never"]


def test_what_nobody_sent_is_a_ghost(aftermath: tuple[Journal, Path, list[Buried]], tmp_path: Path) -> None:
    journal, data_dir, dead = aftermath
    plain = next(s for s in journal.stories().values() if s.revised is None and not s.forgetting)
    forgetful = Journal(tmp_path / "same.jsonl")
    forgetful.file = journal.file
    forgetful.sent = {name: owner for name, owner in journal.sent.items() if name != plain.first}
    forgetful.unsure = journal.unsure

    verdict = audit(forgetful, data_dir, dead)

    assert len(verdict.ghosts) == 1


ROW = "(SELECT id FROM memories WHERE tenant = $tenant AND record IS NOT NULL LIMIT 1)"
DAMAGE: dict[str, tuple[str, tuple[str, ...]]] = {
    "a memory is taken out of the record": (
        f"DELETE FROM memories WHERE id = {ROW}",
        ("lost", "ghosts", "unequal"),
    ),
    "a memory is there twice": (
        f"INSERT INTO memories SELECT * FROM memories WHERE id = {ROW}",
        ("doubled", "unequal"),
    ),
    "a command took effect twice": (
        "INSERT INTO jobs SELECT * FROM jobs WHERE tenant = $tenant LIMIT 1",
        ("doubled",),
    ),
    "a memory says something else": (
        f"UPDATE memories SET record = replace(record, 'Entry', 'Other') WHERE id = {ROW}",
        ("lost", "ghosts", "unequal"),
    ),
    "a memory changed its tenant": (
        f"UPDATE memories SET tenant = '{TENANTS[1]}' WHERE id = {ROW}",
        ("crossed", "lost", "ghosts", "unequal"),
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_to_the_record_is_seen(aftermath: tuple[Journal, Path, list[Buried]], damage: str) -> None:
    journal, data_dir, dead = aftermath
    statement, kinds = DAMAGE[damage]
    file = data_dir / "graph" / f"p{partition_of(TENANT)}.duckdb"

    verdict = damaged(file, statement, {"tenant": TENANT}, lambda: audit(journal, data_dir, dead))

    assert set(verdict.faults) == set(kinds)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger SET amount = amount + 1 WHERE tenant = $tenant AND meter = 'memories_created' AND event_id = "
        "(SELECT min(event_id) FROM ledger WHERE tenant = $tenant AND meter = 'memories_created')",
        "DELETE FROM sizes WHERE memory_id = (SELECT min(memory_id) FROM sizes WHERE tenant = $tenant)",
    ],
)
def test_damage_to_the_ledger_is_seen(aftermath: tuple[Journal, Path, list[Buried]], statement: str) -> None:
    journal, data_dir, dead = aftermath
    file = data_dir / "metering" / "ledger.duckdb"

    verdict = damaged(file, statement, {"tenant": TENANT}, lambda: audit(journal, data_dir, dead))

    assert set(verdict.faults) == {"unequal"}


def damaged(file: Path, statement: str, parameters: dict[str, str], look: Callable[[], Verdict]) -> Verdict:
    """What is seen while a file is damaged; it is put back afterwards."""
    whole = file.read_bytes()
    try:
        with duckdb.connect(str(file)) as connection:
            connection.execute(statement, parameters)
        return look()
    finally:
        file.write_bytes(whole)
