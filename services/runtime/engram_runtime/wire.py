"""How messages come off the connection: read in a row, and handed on without a queue and a task between.

nats-py takes a message apart with regular expressions, parses its headers byte by byte, and passes it through a queue
to a task of its subscription (measured: 17 us a message, here 6). Every memory passes five consumers, so this decides
what one costs. Control lines, and all that is rare, stay nats-py's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

Sink = Callable[[Msg], None]

LINE_END = b"\r\n"
PLAIN_HEADERS = b"NATS/1.0\r\n"
"""Other first lines carry a status."""
HEADERS_END = b"\r\n\r\n"


class Received(Msg):
    """A message whose responses do not carry its own headers back, as nats-py has it."""

    async def respond(self, data: bytes) -> None:
        """Answer the message."""
        await self._client.publish(self.reply, data)


class Wire(Parser):
    """A connection's parser. `sinks` get the messages of their subscription as soon as they are read."""

    buf: bytearray

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self.sinks: dict[int, Sink] = {}

    async def parse(self, data: bytes = b"") -> None:
        """Take up bytes, and hand on every message that is complete."""
        self.buf += data
        while (end := self.buf.find(LINE_END)) >= 0:
            if self.buf.startswith((b"MSG ", b"HMSG ")):
                if not await self._message(self.buf[:end].split(), end + 2):
                    return
            else:
                await self._control(end + 2)

    async def _message(self, words: list[bytearray], start: int) -> bool:
        """Hand on the message whose first line is `words` and whose headers begin at `start`; whether it was whole."""
        subject, sid, reply, headed, size = _told(words)
        split, stop = start + headed, start + size
        if len(self.buf) < stop + 2:
            return False
        headers, body = bytes(self.buf[start:split]), bytes(self.buf[split:stop])
        del self.buf[: stop + 2]
        sink = self.sinks.get(sid)
        if sink is None:
            await self.nc._process_msg(sid, subject, reply, body, headers or None)  # nats-py's own way
        else:
            plain = plain_headers(headers)
            parsed = await self.nc._process_headers(headers) if plain is None else plain
            sink(Received(self.nc, subject.decode(), reply.decode(), body, parsed or None))
        return True

    async def _control(self, end: int) -> None:
        """Have nats-py see one line that is no message; an error may end the connection, and begin a new buffer."""
        line = self.buf
        rest = line[end:]
        del line[end:]
        await super().parse()
        if self.buf is line:
            self.buf += rest


def _told(words: list[bytearray]) -> tuple[bytes, int, bytes, int, int]:
    """Subject, subscription, reply, and the bytes of headers and of the whole.

    The line is `MSG subject sid [reply] size` or `HMSG subject sid [reply] headers size`.
    """
    try:
        sized = words[0] == b"HMSG"
        reply = bytes(words[3]) if len(words) == 5 + sized else b""
        return bytes(words[1]), int(words[2]), reply, int(words[-2]) if sized else 0, int(words[-1])
    except (ValueError, IndexError) as error:
        raise ProtocolError("nats: malformed message") from error


def plain_headers(raw: bytes) -> dict[str, str] | None:
    """The headers, where they are of the usual form; `None` says that somebody has to look closer."""
    if not raw.startswith(PLAIN_HEADERS):
        return None if raw else {}
    headers: dict[str, str] = {}
    try:
        for line in raw[len(PLAIN_HEADERS) : -len(HEADERS_END)].decode().split("\r\n"):
            name, value = line.split(": ", 1)
            headers[name] = value.strip()
        return headers
    except ValueError:  # other than UTF-8, or no blank behind a colon
        return None


def install(client: Client) -> None:
    """Read the client's connection this way from now on; before its first subscription."""
    wire = Wire(client)
    wire.buf = client._ps.buf
    client._ps = wire  # it is not meant to be chosen


async def listen(client: Client, subject: str, sink: Sink) -> Subscription:
    """Subscribe, and have messages handed to `sink`, in order."""

    async def late(message: Msg) -> None:
        sink(message)

    subscription = await client.subscribe(subject, cb=late)
    if isinstance(client._ps, Wire):  # see `install`
        client._ps.sinks[_number(subscription)] = sink  # see `install`
    return subscription


async def leave(client: Client, subscription: Subscription) -> None:
    """End a subscription of `listen`."""
    if isinstance(client._ps, Wire):  # see `install`
        client._ps.sinks.pop(_number(subscription), None)  # see `install`
    await subscription.unsubscribe()


async def send(client: Client, subject: str, body: bytes, *, reply: str, headers: Mapping[str, str]) -> None:
    """Publish a message with headers; as the client does, at half the cost while nothing is out of the ordinary."""
    command = _command(subject, reply, headers, body)
    if command is None or not client.is_connected or len(command) > client.max_payload:
        await client.publish(subject, body, reply=reply, headers=dict(headers))
        return
    client.stats["out_msgs"] += 1
    client.stats["out_bytes"] += len(body)
    await client._send_command(command)  # what `publish` ends in
    if client._flush_queue is not None and client._flush_queue.empty():  # as above
        await client._flush_pending()  # as above


def _command(subject: str, reply: str, headers: Mapping[str, str], body: bytes) -> bytes | None:
    """The protocol's words for it; `None` where something would have to be refused or cleaned."""
    told = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if told.count("\n") != len(headers) or told.count("\r") != len(headers):
        return None
    block = f"NATS/1.0\r\n{told}\r\n".encode()
    line = f"HPUB {subject} {reply} {len(block)} {len(block) + len(body)}"
    if line.count(" ") != 4 or not line.isprintable():
        return None
    return b"%b\r\n%b%b\r\n" % (line.encode(), block, body)


def _number(subscription: Subscription) -> int:
    return cast(int, cast(Any, subscription)._id)  # the only name the protocol has for it
