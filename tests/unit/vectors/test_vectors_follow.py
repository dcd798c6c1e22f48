"""Following the log into a real index in this process."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pydantic import ValidationError

from engram_contracts.errors import NotFound, Rejected, Unavailable
from engram_contracts.events import Progress
from engram_contracts.facts import Accessed, Forgotten, Judged, Remembered, Revised
from engram_contracts.ids import partition_of
from engram_contracts.questions import CountIndexed
from engram_contracts.topology import VECTORS_LOG
from engram_runtime.service import Service
from engram_vectors.handlers import Handlers
from engram_vectors.points import Changes
from engram_vectors.positions import Positions
from engram_vectors.positions_file import FilePositions
from engram_vectors.recalling import Recaller
from engram_vectors.service import open_service
from engram_vectors.settings import QdrantSettings, Settings, VectorsSettings
from engram_vectors.turns import Turns
from engram_vectors.weights import Weights
from support.memories import chunk, embedding, forgotten, memory, memory_id, remembered, revised
from support.recording_bus import RecordingBus
from support.toy_index import ToyIndex

PARTITION = partition_of("acme")


def settings_in(folder: Path) -> Settings:
    return Settings(data_dir=folder)


def handler(service: Service) -> object:
    return service.follows[PARTITION].handler


async def count(service: Service, tenant: str = "acme") -> int:
    reply = await service.answers[CountIndexed](CountIndexed(tenant=tenant))
    return int(reply.memories)  # type: ignore[attr-defined]  # the reply to this question


async def test_the_service_follows_its_partitions_answers_and_checks(tmp_path: Path) -> None:
    async with open_service(settings_in(tmp_path), RecordingBus()) as service:
        check = await service.checks["index"]()

        assert [following.consumer for following in service.follows] == list(VECTORS_LOG)
        assert service.follows[0].messages == {
            "remembered": Remembered,
            "revised": Revised,
            "forgotten": Forgotten,
            "judged": Judged,
            "accessed": Accessed,
        }
        assert {"recall", "find", "count"} <= {kind.verb for kind in service.answers}
        assert check.ok


async def test_a_replica_follows_the_partitions_it_is_told(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, vectors=VectorsSettings.model_validate({"partitions": "1, 5"}))

    async with open_service(settings, RecordingBus()) as service:
        assert [following.consumer for following in service.follows] == [VECTORS_LOG[1], VECTORS_LOG[5]]


async def test_a_batch_is_announced_once_per_tenant_without_what_was_refused(tmp_path: Path) -> None:
    bus = RecordingBus()
    async with open_service(settings_in(tmp_path), bus) as service:
        batch = [
            remembered(1, memory(1)),
            remembered(2, memory(2), tenant="b"),
            revised(3, 7, {"kind": "fact"}),
            remembered(4, memory(4), embedding(chunk(), model="big@8")),
            remembered(5, memory(3)),
            forgotten(6, 1),
        ]

        outcomes = await service.follows[PARTITION].handler(batch)

    assert [type(outcome) for outcome in outcomes] == [
        type(None),
        type(None),
        NotFound,
        Rejected,
        type(None),
        type(None),
    ]
    told = {tenant: event for tenant, event in bus.emitted if isinstance(event, Progress)}
    assert len(bus.emitted) == 2
    assert told["acme"].stage == "indexed"
    assert told["acme"].commands == tuple(batch[n].message.command for n in (0, 4, 5))
    assert told["acme"].memory_ids == tuple(memory_id(n) for n in (1, 3, 1))
    assert told["b"].memory_ids == (memory_id(2),)


async def test_the_position_is_the_last_sequence_applied_and_survives_a_restart(tmp_path: Path) -> None:
    async with open_service(settings_in(tmp_path), RecordingBus()) as service:
        following = service.follows[PARTITION]
        before = await following.position()
        await following.handler([remembered(4, memory(1)), remembered(9, memory(2))])
        applied = await following.position()

    async with open_service(settings_in(tmp_path), RecordingBus()) as service:
        kept = await service.follows[PARTITION].position()
        others = await service.follows[(PARTITION + 1) % 8].position()
        assert (await count(service)) == 2

    assert (before, applied, kept, others) == (0, 9, 9, 0)


async def test_positions_are_kept_within_seconds_while_the_service_runs(tmp_path: Path) -> None:
    file = tmp_path / "vectors" / "positions.json"
    soon = Settings(data_dir=tmp_path, vectors=VectorsSettings(flush_seconds=0.2))
    async with open_service(soon, RecordingBus()) as service, asyncio.timeout(10):
        await service.follows[PARTITION].handler([remembered(4, memory(1))])
        while not file.exists():
            await asyncio.sleep(0.01)


async def test_an_index_that_was_thrown_away_is_filled_from_the_beginning(tmp_path: Path) -> None:
    async with open_service(settings_in(tmp_path), RecordingBus()) as service:
        await service.follows[PARTITION].handler([remembered(4, memory(1))])
    (tmp_path / "vectors" / "current").rename(tmp_path / "vectors" / "away")

    async with open_service(settings_in(tmp_path), RecordingBus()) as service:
        assert await service.follows[PARTITION].position() == 0
        assert (await count(service)) == 0


async def test_facts_before_any_vector_are_taken_without_an_index(tmp_path: Path) -> None:
    async with open_service(settings_in(tmp_path), RecordingBus()) as service:
        nameless = embedding(chunk(), model="nameless")
        batch = [forgotten(1, 1), revised(2, 1, {"kind": "fact"}), remembered(3, memory(3), nameless)]

        outcomes = await service.follows[PARTITION].handler(batch)

    assert outcomes[0] is None
    assert isinstance(outcomes[1], NotFound)
    assert isinstance(outcomes[2], Rejected)
    assert "name@dimension" in outcomes[2].message


async def test_an_empty_batch_is_nothing(tmp_path: Path) -> None:
    async with open_service(settings_in(tmp_path), RecordingBus()) as service:
        assert await service.follows[PARTITION].handler([]) == []


async def test_trouble_with_the_index_is_raised_and_nothing_counts(tmp_path: Path) -> None:
    class Full(ToyIndex):
        async def write(self, changes: Changes) -> None:
            raise Unavailable("no space left")

    bus, index = RecordingBus(), Full()
    positions = Positions(index, FilePositions(tmp_path / "positions.json"))
    handlers = Handlers(index, positions, Recaller(index, bus, weights=Weights(), candidates=50), bus, turns=Turns())

    with pytest.raises(Unavailable):
        await handlers.apply([remembered(1, memory(1))])

    assert (positions.of(PARTITION), bus.emitted) == (0, [])


def test_a_qdrant_url_chooses_the_server() -> None:
    assert Settings().adapter == "edge"
    assert Settings(qdrant=QdrantSettings(url="http://qdrant:6333")).adapter == "server"
    assert Settings(qdrant=QdrantSettings(url="http://x"), vectors=VectorsSettings(adapter="edge")).adapter == "edge"


@pytest.mark.parametrize("partitions", ["8", "-1", "x", "1,,2"])
def test_partitions_that_do_not_exist_are_refused(partitions: str) -> None:
    with pytest.raises(ValidationError):
        VectorsSettings.model_validate({"partitions": partitions})
