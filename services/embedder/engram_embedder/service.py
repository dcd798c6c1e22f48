"""The embedder, put together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

from engram_contracts.auditing import EmbedDocument
from engram_contracts.commands import INGEST
from engram_contracts.control import TenantRecord
from engram_contracts.errors import Rejected
from engram_contracts.events import Served
from engram_contracts.questions import EmbedQuery, Question
from engram_contracts.recovery import SYSTEM
from engram_contracts.topology import EMBED_BULK, EMBED_NOW, SETTINGS, TENANTS
from engram_embedder.embedding import Embedder
from engram_embedder.guard import ModelInUse, claim
from engram_embedder.handlers import Handlers
from engram_embedder.pace import Pace
from engram_embedder.ports import EmbeddingModel
from engram_embedder.settings import EmbedderSettings, Settings
from engram_embedder.sparse import SparseEncoder
from engram_embedder.stems import Stems
from engram_runtime.bus import Bus
from engram_runtime.mirror import Mirror, mirrored
from engram_runtime.service import Answer, Service, Taking


@contextlib.asynccontextmanager
async def open_service(settings: Settings, bus: Bus) -> AsyncIterator[Service]:
    """The running embedder. Raises `Rejected` when what is stored was embedded by another model."""
    ours = settings.embedder
    sparse = SparseEncoder(Stems(ours.language))
    model = await open_model(ours, cache_dir=settings.data_dir / "models")
    try:
        await claim(bus.bucket(SETTINGS), ModelInUse(model=model.name, dimension=model.dimension))
        async with _pace(bus) as pace, mirrored(bus, TENANTS, TenantRecord) as tenants:
            handlers = Handlers(Embedder(model, sparse), bus, pace=pace, language=partial(_language, tenants))
            yield Service(
                name="embedder",
                answers=_answers(handlers) if ours.role != "work" else {},
                takes=_takes(handlers) if ours.role != "query" else (),
                checks={"model": handlers.check_model},
            )
    finally:
        await model.close()


def _language(tenants: Mirror[TenantRecord], name: str) -> str | None:
    record = tenants.get(name)
    return record.language if record is not None else None


@contextlib.asynccontextmanager
async def _pace(bus: Bus) -> AsyncIterator[Pace]:
    """The pace of bulk work, which is told while the context is open who is served."""
    pace = Pace()
    async with bus.events(SYSTEM, Served) as told:

        async def listen() -> None:
            async for served in told:
                pace.hear(served)

        listening = asyncio.create_task(listen())
        try:
            yield pace
        finally:
            listening.cancel()


async def open_model(settings: EmbedderSettings, *, cache_dir: Path) -> EmbeddingModel:
    """The model that the settings name; its adapter alone is imported."""
    opener = {"static": _open_static, "fastembed": _open_fastembed, "openai": _open_openai}[settings.adapter]
    return await opener(settings, cache_dir)


async def _open_static(settings: EmbedderSettings, _: Path) -> EmbeddingModel:
    from engram_embedder.model_static import StaticModel  # noqa: PLC0415 (one adapter is loaded, not three)

    return StaticModel(settings.dimension or 256)


async def _open_fastembed(settings: EmbedderSettings, cache_dir: Path) -> EmbeddingModel:
    try:
        from engram_embedder.model_fastembed import FastembedModel  # noqa: PLC0415 (one adapter is loaded, not three)
    except ImportError as error:
        raise Rejected(f"ENGRAM_EMBEDDER=fastembed needs `pip install engram-embedder[fastembed]` ({error})") from error
    folder = (settings.cache_dir or cache_dir).expanduser()
    return await FastembedModel.open(settings.model, path=settings.path, cache_dir=folder, dimension=settings.dimension)


async def _open_openai(settings: EmbedderSettings, _: Path) -> EmbeddingModel:
    from engram_embedder.model_openai import OpenAIModel  # noqa: PLC0415 (one adapter is loaded, not three)

    return await OpenAIModel.open(
        settings.base_url,
        settings.model or "text-embedding-3-small",
        api_key=settings.api_key,
        dimensions=settings.dimension,
        timeout_seconds=settings.timeout_seconds,
    )


def _answers(handlers: Handlers) -> dict[type[Question[Any]], Answer]:
    return {EmbedQuery: handlers.embed_query, EmbedDocument: handlers.embed_document}


def _takes(handlers: Handlers) -> tuple[Taking, ...]:
    return (
        *(Taking(consumer=consumer, handler=handlers.ingest, commands=INGEST) for consumer in EMBED_NOW),
        *(Taking(consumer=consumer, handler=handlers.ingest_bulk, commands=INGEST) for consumer in EMBED_BULK),
    )
