"""A real door before a real reasoner with a model that does as it is told; vectors and graph are played."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from engram_api.readiness import SERVICES
from engram_contracts.errors import NotFound
from engram_contracts.facts import Thought
from engram_contracts.questions import FindIndexed, FindJob, Found, GetMemory, Indexed, JobRecord, Recall
from engram_contracts.topology import LOG, THINK, log_subject
from engram_reasoner.service import open_service
from engram_reasoner.settings import LlmSettings, Settings
from engram_runtime.host import hosted
from engram_runtime.nats_bus import NatsBus, open_bus
from engram_runtime.provision import provision
from engram_runtime.settings import NatsSettings
from support.door import DoorUnderTest, open_door
from support.fake_model import FakeModel
from support.recalled import recollection
from support.servers import NatsServer

PRICES = {"prompt_price": 2.0, "completion_price": 8.0}


@contextlib.asynccontextmanager
async def live_room(
    server: NatsServer, folder: Path, model: FakeModel | None, **sections: Any
) -> AsyncIterator[DoorUnderTest]:
    """The door; questions are answered by the model, and the record holds what lies on the log."""
    nats = NatsSettings(url=server.url)
    llm = LlmSettings()
    if model is not None:
        llm = LlmSettings(base_url=model.base_url, model="m-1", api_key=SecretStr("sk-very-secret"), **PRICES)
    plays = [name for name in SERVICES if name != "reasoner"]
    async with open_bus(nats, name="reasoner", durability="process") as bus:
        await provision(bus.jetstream, consumers=THINK)
        async with (
            open_service(Settings(nats=nats, llm=llm), bus) as service,
            hosted(service, bus, Settings(nats=nats)),
            open_door(server, folder, plays=plays, **sections) as door,
        ):
            door.parts.scripts |= {
                Recall: lambda _: recollection(best=[3]),
                FindJob: lambda question: _recorded(bus, question),
                FindIndexed: lambda _: Indexed(),
                GetMemory: _unknown,
            }
            yield door


async def _recorded(bus: NatsBus, question: FindJob) -> Found:
    """What the graph would say: the answer that lies on the log."""
    pattern = log_subject(question.tenant, Thought.event)
    for stored in await bus.archive(LOG).read(1, pattern=pattern, limit=1_000):
        thought = Thought.model_validate_json(stored.body)
        if thought.command == question.command:
            now = datetime.now(UTC)
            return Found(found=JobRecord(accepted_at=thought.at, embedded_at=now, linked_at=now, thought=thought))
    return Found()


def _unknown(_: GetMemory) -> Any:
    raise NotFound("no such memory")
