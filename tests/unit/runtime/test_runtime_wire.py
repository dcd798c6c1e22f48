"""The wire hands on what nats-py's own parser would, however the bytes arrive."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import BadSubjectError, ProtocolError

from engram_runtime.nats_bus import open_bus
from engram_runtime.settings import NatsSettings
from engram_runtime.wire import Wire, listen, plain_headers, send
from support.servers import nats_server

HEADERS = b"NATS/1.0\r\nNats-Msg-Id: 7\r\nEngram-Correlation:  a: b \r\n\r\n"
STATUS = b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 3\r\n\r\n"
ODD = b"NATS/1.0\r\nTight:value\r\n\r\n"


class Connection(Client):
    """A client without a connection, which notes what a parser hands it."""

    def __init__(self) -> None:
        super().__init__()
        self.slow: list[tuple[int, bytes, bytes, bytes, bytes | None]] = []
        self.control: list[str] = []

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        self.slow.append((sid, subject, reply, data, headers))

    async def _process_ping(self) -> None:
        self.control.append("ping")

    async def _process_pong(self) -> None:
        self.control.append("pong")


def message(sid: int, body: bytes, *, reply: bytes = b"", headers: bytes = b"") -> bytes:
    verb, sizes = (b"HMSG", [len(headers), len(headers) + len(body)]) if headers else (b"MSG", [len(body)])
    words = [verb, b"a.b", str(sid).encode(), *([reply] if reply else []), *(str(size).encode() for size in sizes)]
    return b" ".join(words) + b"\r\n" + headers + body + b"\r\n"


STREAM = b"".join([
    message(1, b"one", reply=b"$JS.ACK.x", headers=HEADERS), b"PING\r\n", message(2, b"two\r\nMSG a 1 3\r\n"),
    message(1, b"", headers=STATUS), message(1, b"three", headers=ODD), b"+OK\r\n", message(1, b"four"), b"PONG\r\n",
    message(2, b"five", reply=b"r", headers=HEADERS), message(1, b"x" * 5_000, reply=b"r"),
])  # fmt: skip


@pytest.mark.parametrize("step", [1, 2, 3, 7, 64, 1_000, 100_000])
async def test_messages_are_the_same_however_the_bytes_are_cut(step: int):
    connection = Connection()
    wire = Wire(connection)
    quick: list[Msg] = []
    wire.sinks[1] = quick.append

    for at in range(0, len(STREAM), step):
        await wire.parse(STREAM[at : at + step])

    assert [(each.data[:5], each.reply, each.headers) for each in quick] == [
        (b"one", "$JS.ACK.x", {"Nats-Msg-Id": "7", "Engram-Correlation": "a: b"}),
        (b"", "", {"Status": "408", "Description": "Request Timeout", "Nats-Pending-Messages": "3"}),
        (b"three", "", {"Tight": "value"}),
        (b"four", "", None),
        (b"xxxxx", "r", None),
    ]
    assert connection.slow == [
        (2, b"a.b", b"", b"two\r\nMSG a 1 3\r\n", None),
        (2, b"a.b", b"r", b"five", HEADERS),
    ]
    assert connection.control == ["ping", "pong"]
    assert not wire.buf


async def test_plain_headers_are_those_of_nats_py():
    for raw in (HEADERS, ODD, STATUS, b""):
        found = plain_headers(raw)

        assert found is None or (found or None) == await Connection()._process_headers(raw)


async def test_what_came_behind_an_error_that_ended_the_connection_is_not_kept_for_the_next():
    class Ending(Connection):
        async def _process_err(self, err_msg: str) -> None:
            wire.reset()

    wire = Wire(Ending())

    await wire.parse(b"-ERR 'Stale Connection'\r\n" + message(1, b"left over"))

    assert not wire.buf


@pytest.mark.parametrize("line", [b"MSG a.b x 3\r\nabc\r\n", b"MSG 3\r\nabc\r\n", b"NONSENSE\r\n"])
async def test_what_is_no_protocol_ends_the_connection(line: bytes):
    with pytest.raises(ProtocolError):
        await Wire(Connection()).parse(line)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10.0):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("subject", "value"), [("a.b", "plain"), ("a.b", "naïve"), ("a b", "x"), ("a.b", "two\r\nlines"), ("a\r\nPUB", "x")]
)
async def test_what_is_sent_is_what_nats_py_would_send_or_left_to_it(tmp_path, subject: str, value: str):
    with nats_server(tmp_path / "nats") as server:
        async with open_bus(NatsSettings(url=server.url), name="test", durability="process") as bus:
            got: list[Msg] = []
            await listen(bus.client, "a.b", got.append)
            headers = {"Name": value}
            try:
                await bus.client.publish(subject, b"body", reply="r", headers=headers)
            except BadSubjectError:
                with pytest.raises(BadSubjectError):
                    await send(bus.client, subject, b"body", reply="r", headers=headers)
                return

            await send(bus.client, subject, b"body", reply="r", headers=headers)
            await until(lambda: len(got) == 2)

    assert [(each.data, each.reply, each.headers) for each in got] == 2 * [(got[0].data, "r", got[0].headers)]


async def test_a_response_does_not_carry_the_headers_back(tmp_path):
    with nats_server(tmp_path / "nats") as server:
        async with open_bus(NatsSettings(url=server.url), name="test", durability="process") as bus:
            asked: list[Msg] = []
            answers: list[Msg] = []
            await listen(bus.client, "question", asked.append)
            await listen(bus.client, "answer", answers.append)

            await send(bus.client, "question", b"?", reply="answer", headers={"Name": "value"})
            await until(lambda: asked)
            await asked[0].respond(b"!")
            await until(lambda: answers)

    assert [(each.data, each.headers) for each in answers] == [(b"!", None)]
