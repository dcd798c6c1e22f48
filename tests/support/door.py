"""A real door on a real broker, with the services behind it played by the test."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from pydantic import TypeAdapter

from engram_api.readiness import SERVICES
from engram_api.routes import OPERATIONS, Operation
from engram_api.service import open_service
from engram_api.settings import Settings
from engram_contracts import erasing, recovery
from engram_contracts.errors import Unavailable
from engram_contracts.messages import Message
from engram_contracts.questions import QUESTIONS, Question
from engram_contracts.topology import GRAPH_LOG
from engram_runtime.host import hosted
from engram_runtime.keys import Role, create_key, create_tenant, load_pepper
from engram_runtime.nats_bus import NatsBus, open_bus
from engram_runtime.provision import provision
from engram_runtime.service import Service
from engram_runtime.settings import Common, NatsSettings
from support.servers import NatsServer, free_port

Script = Callable[[Any], Message | Awaitable[Message]]


@dataclass
class Parts:
    """The services behind the door: what they answer, by question; a question without an answer is `Unavailable`."""

    bus: NatsBus
    scripts: dict[type[Question[Any]], Script] = field(default_factory=dict)
    asked: list[Question[Any]] = field(default_factory=list)

    async def answer(self, question: Question[Any]) -> Message:
        """What the script says."""
        self.asked.append(question)
        script = self.scripts.get(type(question))
        if script is None:
            raise Unavailable("not scripted")
        said = script(question)
        return said if isinstance(said, Message) else await said


@dataclass(frozen=True)
class Reply:
    """An answer of the door."""

    status: int
    headers: Any
    raw: bytes

    @property
    def envelope(self) -> dict[str, Any]:
        """The whole answer."""
        parsed: dict[str, Any] = json.loads(self.raw)
        return parsed

    @property
    def data(self) -> Any:
        """What was asked for."""
        return self.envelope["data"]

    @property
    def meta(self) -> dict[str, Any]:
        """What is beside it."""
        parsed: dict[str, Any] = self.envelope["meta"]
        return parsed

    @property
    def error(self) -> dict[str, Any]:
        """What went wrong."""
        parsed: dict[str, Any] = self.envelope["error"]
        return parsed


@dataclass
class DoorUnderTest:
    """A door that listens. Calls use the admin key of tenant `default` unless told otherwise."""

    url: str
    port: int
    session: aiohttp.ClientSession
    bus: NatsBus
    parts: Parts
    pepper: bytes
    key: str

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = "",
        headers: dict[str, str] | None = None,
        raw: bytes | None = None,
        **query: Any,
    ) -> Reply:
        """Send a request; the answer must have the form that the route table declares."""
        sent = {"Content-Type": "application/json"} if raw is not None or body is not None else {}
        if key is not None:
            sent["Authorization"] = f"Bearer {key or self.key}"
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        given = {name: value for name, value in query.items() if value is not None}
        sent.update(headers or {})
        async with self.session.request(method, self.url + path, data=data, headers=sent, params=given) as answer:
            reply = Reply(answer.status, answer.headers, await answer.read())
        assert_declared(method, path, reply)
        return reply

    async def new_key(self, tenant: str, role: Role = "writer") -> str:
        """A key that the door already knows."""
        await create_tenant(self.bus, tenant)
        text = await create_key(self.bus, tenant, role, "test", self.pepper)
        async with asyncio.timeout(5.0):
            while (await self.call("GET", "/v1/jobs/job_0", key=text)).status in (401, 403):
                await asyncio.sleep(0.005)
        return text


def assert_declared(method: str, path: str, reply: Reply) -> None:
    """The answer has the form that the route table declares for it."""
    operation = declared(method, path)
    if operation is None or (reply.status < 400 and operation.answer is None):
        return
    assert reply.envelope.keys() >= {"data", "meta", "error"}
    if "Idempotency-Replayed" not in reply.headers:
        assert reply.meta["request_id"] == reply.headers["X-Request-ID"]
    if reply.data is None:
        assert reply.error["request_id"] == reply.meta["request_id"]
        return
    models = [operation.answer, *operation.also.values()]
    assert reply.status in (operation.status, operation.settled, *operation.also)
    assert any(_fits(model, reply.data) for model in models), reply.data


def declared(method: str, path: str) -> Operation | None:
    """The operation that serves a path."""
    served = [one for one in OPERATIONS if one.method == method and _matches(one.path, path.partition("?")[0])]
    return served[0] if served else None


def _matches(template: str, path: str) -> bool:
    parts = template.split("/"), path.split("/")
    return len(parts[0]) == len(parts[1]) and all(a == b or a.startswith("{") for a, b in zip(*parts, strict=True))


def _fits(model: Any, data: Any) -> bool:
    try:
        TypeAdapter(model).validate_python(data)
    except ValueError:
        return False
    return True


@contextlib.asynccontextmanager
async def open_door(
    server: NatsServer, folder: Path, *, plays: Sequence[str] = SERVICES, **sections: Any
) -> AsyncIterator[DoorUnderTest]:
    """A door on a provisioned broker, before services that are played.

    `sections` override settings, for example `serve={"body_seconds": 1}`.
    """
    nats = NatsSettings(url=server.url)
    port = free_port()
    serve = {"port": port, "ask_seconds": 1.0, **sections.pop("serve", {})}
    settings = Settings.model_validate({"data_dir": folder, "nats": nats, "serve": serve, **sections})
    pepper = load_pepper(folder, None)
    async with (
        open_bus(nats, name="parts", durability="process") as others,
        open_bus(nats, name="door", durability="process") as bus,
    ):
        await provision(others.jetstream, consumers=GRAPH_LOG)
        await create_tenant(others, "default")
        key = await create_key(others, "default", "admin", "admin", pepper)
        parts = Parts(others)
        async with (
            playing(parts, plays),
            open_service(settings, bus),
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        ):
            yield DoorUnderTest(f"http://127.0.0.1:{port}", port, session, others, parts, pepper, key)


@contextlib.asynccontextmanager
async def playing(parts: Parts, names: Sequence[str]) -> AsyncIterator[None]:
    """These services, answering from the scripts."""
    async with contextlib.AsyncExitStack() as stack:
        for name in names:
            answers = {
                kind: parts.answer
                for kind in (*QUESTIONS, *recovery.QUESTIONS, *erasing.QUESTIONS)
                if kind.service == name
            }
            bus = await stack.enter_async_context(open_bus(_same(parts.bus), name=name, durability="process"))
            await stack.enter_async_context(hosted(Service(name=name, answers=answers), bus, Common()))
        yield


def _same(bus: NatsBus) -> NatsSettings:
    return NatsSettings(url=f"nats://{bus.client.connected_url.netloc}")  # type: ignore[union-attr]
