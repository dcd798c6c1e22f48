from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from engram_contracts.auditing import EmbedDocument
from engram_contracts.commands import INGEST
from engram_contracts.control import TenantRecord
from engram_contracts.errors import Rejected
from engram_contracts.questions import EmbedQuery, QueryVectors
from engram_contracts.topology import EMBED_BULK, EMBED_NOW, SETTINGS, TENANTS
from engram_embedder.guard import KEY
from engram_embedder.service import open_service
from engram_embedder.settings import EmbedderSettings, Settings
from engram_runtime.settings import load
from support.fake_embeddings import fake_embeddings
from support.recording_bus import RecordingBus


def settings(folder: Path, **embedder: Any) -> Settings:
    return Settings(data_dir=folder, embedder=EmbedderSettings(**embedder))


async def test_by_default_it_answers_queries_and_takes_all_lanes(tmp_path: Path) -> None:
    async with open_service(settings(tmp_path), RecordingBus()) as service:
        vectors = await service.answers[EmbedQuery](EmbedQuery(text="hello"))
        check = await service.checks["model"]()

    assert service.name == "embedder"
    assert [taking.consumer for taking in service.takes] == [*EMBED_NOW, *EMBED_BULK]
    assert all(taking.commands == INGEST for taking in service.takes)
    assert isinstance(vectors, QueryVectors)
    assert vectors.model == "static/wordllama-256@256"
    assert check.ok


async def test_a_process_for_queries_takes_no_work(tmp_path: Path) -> None:
    async with open_service(settings(tmp_path, role="query"), RecordingBus()) as service:
        assert EmbedQuery in service.answers
        assert service.takes == ()


async def test_a_process_for_work_answers_no_queries(tmp_path: Path) -> None:
    async with open_service(settings(tmp_path, role="work"), RecordingBus()) as service:
        assert service.answers == {}
        assert service.takes


async def test_a_changed_dimension_is_refused_at_start(tmp_path: Path) -> None:
    bus = RecordingBus()
    async with open_service(settings(tmp_path), bus):
        pass

    with pytest.raises(Rejected, match=r"static/wordllama-256.*static/wordllama-128"):
        async with open_service(settings(tmp_path, dimension=128), bus):
            pass


async def test_a_changed_adapter_is_refused_at_start(tmp_path: Path) -> None:
    bus = RecordingBus()
    async with open_service(settings(tmp_path), bus):
        pass

    async with fake_embeddings() as fake:
        with pytest.raises(Rejected, match=r"static/wordllama-256.*openai/fake-small"):
            async with open_service(settings(tmp_path, adapter="openai", model="fake-small", base_url=fake.url), bus):
                pass


async def test_the_model_in_use_is_written_down(tmp_path: Path) -> None:
    bus = RecordingBus()

    async with open_service(settings(tmp_path, dimension=64), bus):
        pass

    assert bus.bucket(SETTINGS).entries[KEY] == b'{"model":"static/wordllama-64","dimension":64}'


async def test_a_dimension_the_static_model_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="100"):
        async with open_service(settings(tmp_path, dimension=100), RecordingBus()):
            pass


def test_settings_come_from_the_environment(tmp_path: Path) -> None:
    environ = {
        "ENGRAM_CONFIG": str(tmp_path / "config.yaml"), "ENGRAM_EMBEDDER": "openai", "ENGRAM_EMBEDDER_MODEL": "m",
        "ENGRAM_EMBEDDER_BASE_URL": "http://127.0.0.1:1/v1", "ENGRAM_EMBEDDER_API_KEY": "sk-1",
        "ENGRAM_EMBEDDER_DIMENSION": "64", "ENGRAM_EMBEDDER_ROLE": "query",
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text("embedder: {language: german}\n")

    ours = load(Settings, environ=environ).embedder

    assert (ours.adapter, ours.model, ours.dimension, ours.role, ours.language) == (
        "openai",
        "m",
        64,
        "query",
        "german",
    )
    assert "sk-1" not in repr(ours)


@pytest.mark.parametrize("name", ["ENGRAM_EMBEDDER", "ENGRAM_EMBEDDER_ROLE", "ENGRAM_EMBEDDER_DIMENSION"])
def test_a_setting_that_does_not_fit_is_refused_by_name(name: str) -> None:
    with pytest.raises(Rejected, match=r"embedder\."):
        load(Settings, environ={name: "nonsense", "HOME": "/nonexistent"})


async def test_a_tenants_words_are_read_in_its_language(tmp_path: Path) -> None:
    bus = RecordingBus()
    record = TenantRecord(name="berlin", created_at=datetime(2026, 1, 1, tzinfo=UTC), language="german")
    await bus.bucket(TENANTS).put("berlin", record.encode())

    async with open_service(settings(tmp_path), bus) as service:
        embed, ask = service.answers[EmbedDocument], service.answers[EmbedQuery]
        theirs, ours = [await embed(EmbedDocument(text="Häuser", tenant=name)) for name in ("berlin", "acme")]
        german, usual = await ask(EmbedQuery(text="Haus", language="german")), await ask(EmbedQuery(text="Haus"))

    terms = theirs.chunks[0].sparse.indices, ours.chunks[0].sparse.indices  # type: ignore[attr-defined]
    assert terms == (german.sparse.indices, terms[1])  # type: ignore[attr-defined]
    assert terms[1] != usual.sparse.indices  # type: ignore[attr-defined]
