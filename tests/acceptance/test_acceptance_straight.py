"""Other systems on the broker: what their credentials open, what they do not, and how they are told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import nats
import pytest
from nats.errors import Error as NatsError
from nats.js.errors import APIError, BadRequestError

from engram import admitting
from engram.door import Door
from engram_contracts.commands import COMMANDS, Remember
from engram_contracts.errors import NotFound
from engram_contracts.export import export
from engram_contracts.ids import derived_id
from engram_contracts.memory import MemoryFields
from engram_contracts.topology import (
    BUCKETS,
    CONSUMERS,
    DEAD,
    LANES,
    LOG,
    PING_ALL,
    STREAMS,
    TENANTS,
    TRACES,
    dead_subject,
    event_subject,
    log_subject,
    rpc_subject,
    work_subject,
)
from engram_runtime.nats_bus import open_bus
from support.background import in_background
from support.collector import Collector, collector
from support.every_question import every_question
from support.fake_model import FakeModel, Reply, fake_model
from support.servers import ROOT
from support.system import System, embedded_system
from support.waiting import holds

FOREIGN = "rival"
CANARY = "nightingale-in-the-larder"
ISSUER, AUDIENCE = "https://issuer.example", "engram"
SECRETS = {
    "ENGRAM_METRICS_TOKEN": "canary-metrics-token-5f1e",
    "ENGRAM_LLM_API_KEY": "canary-model-key-77ab",
    "ENGRAM_AUTH_JWT_SECRET": "canary-of-the-issuer-c0de-0123456789",
}
SETTINGS = {
    **SECRETS, "ENGRAM_LLM_MODEL": "nosy", "ENGRAM_LOG_LEVEL": "debug", "ENGRAM_AUTH_JWT_ISSUER": ISSUER,
    "ENGRAM_AUTH_JWT_AUDIENCE": AUDIENCE, "ENGRAM_TELEMETRY_ENABLED": "true", "ENGRAM_TELEMETRY_SAMPLE_RATE": "1",
    "OTEL_BSP_SCHEDULE_DELAY": "200",
}  # fmt: skip
"""Every request is traced, and the model repeats in its refusals what must stay secret."""
API = (
    "$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST",
    *(f"$JS.API.STREAM.{verb}.{stream.name}" for stream in STREAMS for verb in ("INFO", "MSG.GET", "PURGE", "DELETE")),
    *(f"$JS.API.DIRECT.GET.{stream.name}" for stream in STREAMS),
    *(f"$JS.API.CONSUMER.MSG.NEXT.{each.stream.name}.{each.name}" for each in CONSUMERS[:4]),
    "$JS.API.CONSUMER.CREATE.ENGRAM_LOG", "$JS.API.DIRECT.GET.KV_engram_keys", "$KV.engram_keys.x",
    "$SYS.REQ.USER.INFO",
)  # fmt: skip

QUESTIONS = sorted(rpc_subject(service, verb) for service, verb in every_question())
TOPOLOGY = (
    *(pattern.replace(">", "x") for stream in STREAMS for pattern in stream.subjects),
    *(f"$KV.{bucket.name}.x" for bucket in BUCKETS), *(f"$JS.API.DIRECT.GET.KV_{bucket.name}" for bucket in BUCKETS),
    *(f"$JS.API.STREAM.MSG.GET.KV_{bucket.name}" for bucket in BUCKETS), *QUESTIONS, PING_ALL,
)  # fmt: skip
"""Every stream, bucket and question there is."""

PATTERNS = (
    ">", "*.>", "$JS.>", "$KV.>", "$SYS.>", "engram.>", "engram.event.>", "engram.event.*.progress", "engram.in.>",
    event_subject(FOREIGN, ">"), work_subject(FOREIGN, "remember"), work_subject("default", "remember"),
)  # fmt: skip
TARGETS = (
    *(work_subject(FOREIGN, op, urgency) for op in (*COMMANDS, "replay", "erase") for urgency in LANES),
    log_subject(FOREIGN, "remembered"), log_subject("default", "remembered"), dead_subject("embedder", FOREIGN),
    event_subject(FOREIGN, "progress"), event_subject("default", "progress"), "engram.usage.door",
    "engram.rpc.graph.memory", work_subject("_system", "erase"), work_subject("default", "replay"), *API, *TOPOLOGY,
)  # fmt: skip


@pytest.fixture(scope="module")
def traces() -> Iterator[Collector]:
    with in_background(collector()) as running:
        yield running


@pytest.fixture(scope="module")
def model() -> Iterator[FakeModel]:
    words = f"{CANARY}: incorrect API key provided: {SECRETS['ENGRAM_LLM_API_KEY']}"
    with in_background(fake_model(Reply(status=401, words=words))) as running:
        yield running


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, traces: Collector, model: FakeModel) -> Iterator[System]:
    environ = {**SETTINGS, "ENGRAM_TELEMETRY_OTLP_ENDPOINT": traces.url, "ENGRAM_LLM_BASE_URL": model.base_url}
    with embedded_system(tmp_path_factory.mktemp("straight"), environ=environ) as running:
        asyncio.run(running.new_key(FOREIGN, "admin"))
        yield running


def engram(system: System, *arguments: str, code: int = 0) -> str:
    command = [str(Path(sys.executable).with_name("engram")), "--data-dir", str(system.data_dir), "nats-creds"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def credentials(system: System) -> dict[str, Any]:
    return json.loads(engram(system, "default", "--name", "scale"))


@pytest.fixture(scope="module")
async def foreign(system: System) -> dict[str, Any]:
    return await admitting.issue(system.data_dir, FOREIGN, "writer", "")


@contextlib.asynccontextmanager
async def connected(credentials: dict[str, Any]) -> AsyncIterator[tuple[nats.NATS, list[str]]]:
    refused: list[str] = []

    async def note(error: Exception) -> None:
        refused.append(str(error).lower())

    connection = await nats.connect(
        credentials["url"], user=credentials["user"], password=credentials["password"], error_cb=note,
        allow_reconnect=False,
    )  # fmt: skip
    try:
        yield connection, refused
    finally:
        with contextlib.suppress(NatsError):
            await connection.close()


def remember(content: str, *key: str) -> Remember:
    identity = derived_id("straight", *key)
    return Remember(
        id=identity,
        memory_id=identity,
        accepted_at=datetime(2020, 1, 1, tzinfo=UTC),
        memory=MemoryFields(content=content),
    )


async def test_what_is_published_is_remembered_once_and_metered_and_says_who_sent_it(system, credentials):
    command = remember("The kiln was fired at noon. <private>the door code is 4711</private>", "kiln")
    async with connected(credentials) as (connection, _), _door(system) as door:
        before = await _calls(door)

        first = await connection.jetstream().publish(work_subject("default", "remember"), command.encode())
        again = await connection.jetstream().publish(work_subject("default", "remember"), command.encode())
        memory = await _shown(door, command.memory_id)

        assert (again.seq, again.duplicate) == (first.seq, True)
        assert memory["content"].strip() == "The kiln was fired at noon."
        assert memory["created_at"] > "2026"
        assert await holds(lambda: _calls_are_at_least(door, before + 1))
    fact = await _on_the_log(system, command.id)
    assert fact["actor"] == credentials["user"]
    assert b"4711" not in json.dumps(fact).encode()


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"{", "INVALID_REQUEST: Remember.body: Invalid JSON"),
        (b"\xff\xfe", "INVALID_REQUEST"),
        (b"[" * 100_000, "INVALID_REQUEST"),
        (b"{}", "INVALID_REQUEST: Remember.id: Field required"),
        (remember("x", "a").encode().replace(b'"memory_id":"', b'"memory_id":"../'), "a memory's id is a UUID"),
    ],
)
async def test_a_producer_can_read_why_it_is_refused(credentials, body, told):
    async with connected(credentials) as (connection, _):
        with pytest.raises(BadRequestError) as refused:
            await connection.jetstream().publish(work_subject("default", "remember"), body)

    assert told in str(refused.value.description)


async def test_a_suspended_tenant_is_refused_and_told_so(system, foreign):
    async with connected(foreign) as (connection, _), open_bus(system.nats, name="test") as bus:
        publish = lambda: connection.jetstream().publish(work_subject(FOREIGN, "remember"), remember("x", "s").encode())  # noqa: E731
        await _set_status(bus, "suspended")
        try:
            assert await holds(lambda: _is_refused(publish, "suspended"))
        finally:
            await _set_status(bus, "active")
        assert await holds(lambda: _is_taken(publish))


async def test_credentials_open_nothing_of_another_tenant(system, credentials, foreign):
    heard: list[str] = []
    announced: list[bytes] = []

    async def note(message: Any) -> None:
        heard.append(message.subject)

    async def listen(message: Any) -> None:
        announced.append(message.data)

    async with connected(credentials) as (connection, refused), connected(foreign) as (victim, _):
        await victim.subscribe(event_subject(FOREIGN, ">"), cb=listen)
        for pattern in PATTERNS:
            await connection.subscribe(pattern, cb=note)
        for subject in (*TARGETS, f"engram.in.{foreign['user']}.i0.remember.{FOREIGN}"):
            await connection.publish(subject, remember("stolen", subject).encode())
        await victim.jetstream().publish(work_subject(FOREIGN, "remember"), remember("own", "own").encode())
        assert await holds(lambda: any(b"linked" in each for each in announced))
        told = " ".join(refused)

    assert [subject for subject in TARGETS if f'publish to "{subject.lower()}"' not in told] == []
    assert [pattern for pattern in PATTERNS if f'subscription to "{pattern.lower()}"' not in told] == []
    assert heard == []
    assert not any(b"stolen" in each for each in announced)
    assert await _stolen(system) == 0


async def test_an_acknowledgement_cannot_be_sent_where_its_producer_may_not_publish(system, credentials, foreign):
    """The answer to a message goes to its reply subject: within the account of who asked, whatever it is called."""
    heard: list[str] = []

    async def note(message: Any) -> None:
        heard.append(message.subject)

    purges = [f"$JS.API.STREAM.PURGE.{stream.name}" for stream in STREAMS]
    replies = (*purges, work_subject(FOREIGN, "remember"), event_subject(FOREIGN, "remembered"), "engram.usage.door")
    async with connected(credentials) as (connection, _), connected(foreign) as (victim, _):
        await victim.subscribe(event_subject(FOREIGN, "remembered"), cb=note)
        async with open_bus(system.nats, name="test") as bus:
            await bus.client.subscribe(work_subject(FOREIGN, "remember"), cb=note)
            before = (await bus.jetstream.stream_info("ENGRAM_LOG")).state
            for number, reply in enumerate(replies):
                await connection.publish(
                    work_subject("default", "remember"), remember("told", str(number)).encode(), reply=reply
                )
            last = await connection.jetstream().publish(
                work_subject("default", "remember"), remember("z", "z").encode()
            )
            assert last.seq
            await victim.flush()
            after = (await bus.jetstream.stream_info("ENGRAM_LOG")).state

    assert heard == []
    assert (after.first_seq, after.messages >= before.messages) == (before.first_seq, True)


async def test_a_reader_may_ask_and_not_write(system):
    reader = await admitting.issue(system.data_dir, "default", "reader", "")

    async with connected(reader) as (connection, refused):
        await connection.publish(work_subject("default", "remember"), remember("x", "r").encode())
        await connection.flush()
        assert await holds(lambda: any("permissions violation" in each for each in refused))

    assert [each.split(".")[3] for each in reader["publish"] if ".work." in each] == ["think"]


async def test_what_was_revoked_opens_nothing_and_closes_what_was_open(system):
    gone = await admitting.issue(system.data_dir, "default", "writer", "")
    async with connected(gone) as (connection, _):
        engram(system, "revoke", gone["user"])

        assert await holds(lambda: connection.is_closed)
    with pytest.raises(NatsError):
        await nats.connect(gone["url"], user=gone["user"], password=gone["password"], allow_reconnect=False)
    with pytest.raises(NotFound):
        await admitting.revoke(system.data_dir, gone["user"])
    assert gone["user"] not in [each["user"] for each in admitting.listed(system.data_dir, None)]


def test_what_is_kept_of_credentials_is_for_the_owner_alone(system, credentials, tmp_path):
    engram(system, "default", "--out", str(tmp_path / "creds.json"))

    files = [system.data_dir / "nats" / "credentials.json", system.data_dir / "nats" / "accounts.conf"]
    assert {file.stat().st_mode & 0o777 for file in (*files, tmp_path / "creds.json")} == {0o600}
    assert "password" not in str(admitting.listed(system.data_dir, None))


async def test_credentials_of_nobody_are_not_issued(system):
    with pytest.raises(NotFound, match="no tenant 'nobody'"):
        await admitting.issue(system.data_dir, "nobody", "writer", "")


async def test_no_secret_and_no_text_is_in_logs_metrics_traces_or_headers_of_dead_letters(
    system, credentials, traces, model
):
    key = await system.new_key("default", "admin")
    token = jwt.encode(
        {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "exp": time.time() + 600, "tenant": "default", "role": "writer"},
        SECRETS["ENGRAM_AUTH_JWT_SECRET"],
    )
    async with aiohttp.ClientSession(headers={"Content-Type": "application/json"}) as session:
        ticket = await _misbehave(session, system, key)
        await _misbehave(session, system, token)
        async with connected(credentials) as (connection, _):
            with pytest.raises(APIError):
                await connection.jetstream().publish(work_subject("default", "remember"), CANARY.encode())
        await _bury(system)
        metrics = await _metrics_of_all(session, system)
    assert await holds(lambda: b"chat nosy" in traces.received and b"write duckdb" in traces.received)
    told = {file.name: file.read_text(errors="replace") for file in (system.data_dir / "logs").glob("*")}
    told |= {"serve": (system.data_dir.parent / "serve.log").read_text(), "metrics": metrics}
    told |= {"dead letters": await _headers_of_the_dead(system), "spans sent": traces.received.decode(errors="replace")}
    told["spans kept"] = await _spans(system)

    parts = (key.rpartition("_")[2], token.rpartition(".")[2], ticket)
    secrets = [key, token, *parts, CANARY, credentials["password"], *SECRETS.values()]
    assert all(secrets)
    assert [(where, secret) for where, text in told.items() for secret in secrets if secret in text] == []
    assert "Engram-Dead-Reason" in told["dead letters"]
    assert "engram_requests_total" in metrics and "engram_model_calls_total" in metrics
    assert "POST /v1/memories" in told["spans sent"] and "POST /v1/memories" in told["spans kept"]
    assert any(SECRETS["ENGRAM_LLM_API_KEY"] in str(call.headers) for call in model.calls)


async def _metrics_of_all(session: aiohttp.ClientSession, system: System) -> str:
    """What every process tells Prometheus, and where they are."""
    bearer = {"Authorization": f"Bearer {SECRETS['ENGRAM_METRICS_TOKEN']}"}

    async def page(url: str) -> str:
        async with session.get(url, headers=bearer) as answer:
            return await answer.text()

    targets = await page(f"{system.url}/metrics/targets")
    pages = [await page(f"http://{each['targets'][0]}/metrics") for each in json.loads(targets)]
    assert len(pages) == 7
    return "\n".join((targets, *pages, await page(f"{system.url}/metrics")))


async def _spans(system: System) -> str:
    """The spans that lie on the broker."""
    async with open_bus(system.nats, name="test") as bus:
        stored = await bus.archive(TRACES).read(1, pattern=">", limit=5_000)
        return "\n".join(each.body.decode() for each in stored)


async def _misbehave(session: aiohttp.ClientSession, system: System, key: str) -> str:
    """Requests that fail in many ways, with what must stay secret in every part of them; a WebSocket's ticket."""
    good, bad = {"Authorization": f"Bearer {key}"}, {"Authorization": f"Bearer {key[:-1]}x"}
    said = json.dumps({"content": CANARY})
    for headers in (good, bad, {"X-API-Key": key}, {**good, "X-API-Key": key}, {"Authorization": f"Basic {key}"}):
        for body in (said, said[:-1], said.replace("content", CANARY), f'{{"content":"{CANARY}","kind":"{CANARY} "}}'):
            await session.post(f"{system.url}/v1/memories", data=body, headers=headers)
    for path in (f"/v1/{CANARY}", f"/v1/memories/{CANARY}", f"/v1/memories?user_id={CANARY}&key={key}", f"/{key}"):
        await session.get(system.url + path, headers=good)
    await session.post(f"{system.url}/v1/recall", json={"query": CANARY, "filters": {"after": CANARY}}, headers=good)
    for path, asked in (("think", {"question": CANARY}), ("context", {"query": CANARY}), ("recall", {"query": CANARY})):
        async with session.post(f"{system.url}/v1/{path}", json=asked, headers=good) as answer:
            said = await answer.text()
            assert (answer.status < 300) != (path == "think"), said
            assert SECRETS["ENGRAM_LLM_API_KEY"] not in said
    async with session.post(f"{system.url}/v1/ws-tickets", headers=good) as answer:
        ticket: str = (await answer.json())["data"]["ticket"]
    async with session.get(f"{system.url}/v1/ws", params={"ticket": ticket + "x", "key": key}) as answer:
        assert answer.status >= 400
    return ticket


async def _bury(system: System) -> None:
    """Commands that no worker can take, past the door."""
    async with open_bus(system.nats, name="test") as bus:
        for body in (CANARY.encode(), remember(CANARY, "dead").encode().replace(b'"memory_id"', CANARY.encode())):
            await bus.jetstream.publish(work_subject("default", "remember"), body)
        dead = bus.archive(DEAD)
        assert await holds(lambda: _at_least(dead, 2))


async def _at_least(archive: Any, number: int) -> bool:
    return (await archive.extent()).messages >= number


async def _headers_of_the_dead(system: System) -> str:
    async with open_bus(system.nats, name="test") as bus:
        return str([dict(stored.headers) for stored in await bus.archive(DEAD).read(1, pattern=">", limit=500)])


@contextlib.asynccontextmanager
async def _door(system: System) -> AsyncIterator[Door]:
    async with Door.find(url=system.url, key=None, data_dir=system.data_dir) as door:
        yield door


async def _shown(door: Door, memory_id: str) -> dict[str, Any]:
    found: dict[str, Any] = {}

    async def look() -> bool:
        with contextlib.suppress(Exception):
            found.update((await door.call("GET", f"/v1/memories/{memory_id}"))["data"])
        return bool(found)

    assert await holds(look)
    return found


async def _calls(door: Door) -> int:
    return (await door.call("GET", "/v1/usage"))["data"]["totals"].get("memories_created", 0)


async def _calls_are_at_least(door: Door, number: int) -> bool:
    return await _calls(door) >= number


async def _on_the_log(system: System, command: str) -> dict[str, Any]:
    async with open_bus(system.nats, name="test") as bus:
        for stored in await bus.archive(LOG).read(1, pattern="engram.log.*.default.remembered", limit=500):
            fact: dict[str, Any] = json.loads(stored.body)
            if fact["command"] == command:
                return fact
    raise AssertionError(command)


async def _stolen(system: System) -> int:
    async with open_bus(system.nats, name="test") as bus:
        found = 0
        for stream in STREAMS:
            for stored in await bus.archive(stream).read(1, pattern=">", limit=2_000):
                found += b"stolen" in stored.body
        return found


async def _set_status(bus: Any, status: str) -> None:
    bucket = bus.bucket(TENANTS)
    record = json.loads(await bucket.get(FOREIGN))
    await bucket.put(FOREIGN, json.dumps({**record, "status": status}).encode())


async def _is_refused(publish: Callable[[], Any], why: str) -> bool:
    try:
        await publish()
    except APIError as error:
        return error.code == 403 and why in str(error.description)
    return False


async def _is_taken(publish: Callable[[], Any]) -> bool:
    try:
        await publish()
    except APIError:
        return False
    return True


@pytest.mark.parametrize("needs", ["contracts", "nothing"])
def test_the_examples_run(system, tmp_path, needs):
    file = tmp_path / "creds.json"
    file.write_text(json.dumps(asyncio.run(admitting.issue(system.data_dir, "default", "writer", ""))))
    arguments = ["straight_to_nats.py", str(file)]
    if needs == "nothing":
        export(tmp_path / "contracts")
        arguments = ["straight_without_engram.py", str(file), str(tmp_path / "contracts")]
    command = [sys.executable, *arguments, f"The scale reads 198 kilos, says {needs}."]

    done = subprocess.run(command, cwd=ROOT / "examples", capture_output=True, text=True, check=False, timeout=90)
    again = subprocess.run(command, cwd=ROOT / "examples", capture_output=True, text=True, check=False, timeout=90)

    assert (done.returncode, done.stdout.split()[0]) == (0, "accepted"), done.stderr
    assert (again.returncode, again.stdout.split()[0]) == (0, "known"), again.stderr
