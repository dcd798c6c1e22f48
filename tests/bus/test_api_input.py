"""Bad input at the door: each kind has its status and names its field, and nothing of it reaches the broker."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engram_contracts.topology import WORK
from support.door import DoorUnderTest, open_door
from support.servers import nats_server

QUICKLY = {"body_seconds": 0.3, "head_seconds": 0.4, "idle_seconds": 0.4}
SOME_ID = "01a1fe26-baa2-7803-9a9f-123dc58afb1b"


@pytest.fixture(scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DoorUnderTest]:
    folder: Path = tmp_path_factory.mktemp("door")
    with nats_server(folder / "nats") as server:
        async with open_door(
            server, folder / "data", serve={"body_seconds": 0.3, "head_seconds": 0.4, "idle_seconds": 0.4}
        ) as door:
            yield door


async def queued(door: DoorUnderTest) -> int:
    return int((await door.bus.jetstream.stream_info(WORK.name)).state.messages)


@pytest.mark.parametrize(
    ("raw", "headers", "status", "field"),
    [
        (b"", {}, 400, "body"),
        (b'{"content":""}', {}, 400, "content"),
        (json.dumps({"content": "a" * 10_001}).encode(), {}, 400, "content"),
        (b'{"content":1}', {}, 400, "content"),
        (b'{"content":"a","colour":1}', {}, 400, "colour"),
        (b'{"content":"\xff\xfe"}', {}, 400, "body"),
        (b'{"content":"a","content":"b"}', {}, 400, "body"),
        (b"[" * 200_000, {}, 400, "body"),
        (b'{"memories":[{"content":"a"},{"content":" "}]}', {}, 400, "memories.1.content"),
        (b'{"content":"<private>all of it</private>"}', {}, 400, "content"),
        (b'{"memories":[{"content":"a"},{"content":"<private>b"}]}', {}, 400, "memories.1.content"),
        (b'{"content":"a"}', {"Content-Encoding": "junk"}, 415, "Content-Encoding"),
        (b'{"content":"a"}', {"Content-Encoding": "br"}, 415, "Content-Encoding"),
        (b'{"content":"a"}', {"Content-Encoding": "gzip"}, 400, "Content-Encoding"),
        (gzip.compress(b" " * 5_000_000), {"Content-Encoding": "gzip"}, 413, "body"),
        (b'{"content":"a"}', {"Content-Type": "text/plain"}, 415, "Content-Type"),
        (b'{"content":"a"}', {"Content-Type": "application/x-www-form-urlencoded"}, 415, "Content-Type"),
        (b'{"content":"a"}', {"Content-Type": "application/json; charset=latin-1"}, 415, "Content-Type"),
        (b'{"content":"a"}', {"Idempotency-Key": "a b"}, 400, "Idempotency-Key"),
        (b" " * (4 * 2**20 + 1), {}, 413, "body"),
    ],
)
async def test_a_bad_body_is_refused_and_nothing_is_kept(
    door: DoorUnderTest, raw: bytes, headers: dict[str, str], status: int, field: str
) -> None:
    before = await queued(door)

    reply = await door.call("POST", "/v1/memories", raw=raw, headers=headers)

    assert (reply.status, reply.error["field"], reply.error["code"]) == (status, field, "INVALID_REQUEST")
    assert await queued(door) == before


async def test_a_good_compressed_body_is_taken(door: DoorUnderTest) -> None:
    body = gzip.compress(b'{"content":"packed"}')

    assert (await door.call("POST", "/v1/memories", raw=body, headers={"Content-Encoding": "gzip"})).status == 202


@pytest.mark.parametrize(("path", "limit"), [("/v1/memories", 4 * 2**20), ("/v1/recall", 2**20)])
async def test_a_body_past_the_limit_is_refused_however_it_is_sent(door: DoorUnderTest, path: str, limit: int) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(limit // 65_536 + 1):
            yield b" " * 65_536

    headers = {"Authorization": f"Bearer {door.key}", "Content-Type": "application/json"}
    async with door.session.post(door.url + path, data=chunks(), headers=headers) as answer:
        assert answer.status == 413
        assert (await answer.json())["error"]["field"] == "body"


@pytest.mark.parametrize(
    ("method", "path", "field"),
    [
        ("GET", "/v1/memories?cursor=made-up", "cursor"),
        ("GET", "/v1/memories?limit=0", "limit"),
        ("GET", "/v1/memories?limit=1&limit=2", "limit"),
        ("GET", "/v1/memories?tenant=other", "tenant"),
        ("GET", f"/v1/memories/{SOME_ID}?wait=done", "wait"),
        ("GET", "/v1/graph/nodes?cursor=made-up", "cursor"),
        ("GET", "/v1/graph/nodes/no-node", "id"),
        ("GET", "/v1/graph/neighbours", "node"),
        ("GET", "/v1/graph/neighbours?node=a:b&hops=4", "hops"),
        ("GET", "/v1/graph/path?source=a:b", "target"),
        ("DELETE", "/v1/graph/edges?source=a:b&type=knows", "target"),
        ("DELETE", f"/v1/memories/{SOME_ID}?wait=soon", "wait"),
        ("GET", "/v1/usage?since=yesterday", "since"),
    ],
)
async def test_a_bad_query_or_path_names_its_parameter(door: DoorUnderTest, method: str, path: str, field: str) -> None:
    reply = await door.call(method, path)

    assert (reply.status, reply.error["field"]) == (400, field)


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/nothing", "/v1/memories/", "//v1/memories", "/v1/memories/a/b/c"])
async def test_an_unknown_path_is_an_enveloped_404(door: DoorUnderTest, path: str) -> None:
    reply = await door.call("GET", path, key=None)

    assert (reply.status, reply.error["code"]) == (404, "NOT_FOUND")
    assert reply.error["request_id"] == reply.headers["X-Request-ID"]


@pytest.mark.parametrize("method", ["PUT", "OPTIONS", "PATCH", "TRACE", "HEAD"])
async def test_a_wrong_method_says_which_are_right(door: DoorUnderTest, method: str) -> None:
    reply = await door.call(method, "/v1/memories")

    assert reply.status == 405
    assert method == "HEAD" or reply.error["code"] == "INVALID_REQUEST"
    assert set(reply.headers["Allow"].split(",")) == {"GET", "POST"}


async def test_errors_are_problem_details_for_who_wants_them(door: DoorUnderTest) -> None:
    reply = await door.call("GET", "/v1/nothing", headers={"Accept": "application/problem+json"})

    assert reply.headers["Content-Type"] == "application/problem+json"
    assert (reply.envelope["status"], reply.envelope["title"]) == (404, "Not Found")


async def test_the_correlation_id_goes_in_and_out_and_onto_the_broker(door: DoorUnderTest) -> None:
    reply = await door.call("POST", "/v1/memories", {"content": "a"}, headers={"X-Correlation-ID": "trace-7 <x>"})

    sequence = int(reply.data["job"].split("_")[1], 16)
    stored = await door.bus.jetstream.get_msg(WORK.name, seq=sequence)
    assert reply.headers["X-Correlation-ID"] == "trace-7x"
    assert (stored.headers or {})["Engram-Correlation"] == "trace-7x"
    assert reply.meta["request_id"] != "trace-7x"


async def test_every_answer_forbids_caching_and_guessing(door: DoorUnderTest) -> None:
    for path in ("/health", "/v1/nothing", "/v1/memories?limit=0"):
        headers = (await door.call("GET", path)).headers
        assert (headers["X-Content-Type-Options"], headers["Cache-Control"]) == ("nosniff", "no-store")
        assert "aiohttp" not in headers["Server"]


async def test_a_body_that_does_not_come_is_not_waited_for(door: DoorUnderTest) -> None:
    head = (
        f"POST /v1/memories HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {door.key}\r\n"
        "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)

    writer.write(head.encode())
    async with asyncio.timeout(3.0):
        answer = await reader.readuntil(b"\r\n\r\n")

    assert b" 408 " in answer.split(b"\r\n")[0] and b"Connection: close" in answer
    writer.close()


async def test_a_head_that_does_not_come_is_not_waited_for(door: DoorUnderTest) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)

    writer.write(b"POST /v1/memories HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    async with asyncio.timeout(3.0):
        rest = await reader.read()

    assert rest == b""
    writer.close()


async def test_a_chunked_body_that_is_broken_is_a_bad_request(door: DoorUnderTest) -> None:
    head = (
        f"POST /v1/memories HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {door.key}\r\n"
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)

    writer.write(head.encode())
    async with asyncio.timeout(3.0):
        answer = await reader.readuntil(b"\r\n\r\n")

    assert b" 400 " in answer.split(b"\r\n")[0]
    writer.close()


async def test_requests_are_counted_by_template_not_by_path(door: DoorUnderTest) -> None:
    await door.call("GET", "/v1/jobs/job_secret_name")

    metrics = (await door.call("GET", "/metrics", key=None)).raw.decode()

    assert 'engram_requests_total{method="GET",route="/v1/jobs/{id}",status="404"}' in metrics
    assert "secret_name" not in metrics


async def test_a_lost_connection_in_mid_body_harms_nobody(door: DoorUnderTest) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(b"POST /v1/recall HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
    writer.transport.abort()

    assert (await door.call("GET", "/health")).status == 200


@pytest.mark.parametrize(
    "head", [b"JUNK / HTTP/1.1", b"GET /health HTTP/1.1\r\nbad header: x", b"\x16\x03\x01", b"GET"]
)
async def test_what_is_no_http_is_a_bad_request_and_is_not_logged(
    door: DoorUnderTest, head: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)

    writer.write(head + b"\r\nHost: x\r\nAuthorization: Bearer secret\r\n\r\n")
    async with asyncio.timeout(3.0):
        answer = await reader.readline()

    assert b" 400 " in answer
    assert "secret" not in caplog.text
    writer.close()
