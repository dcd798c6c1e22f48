"""A chat model that does as it is told: a real HTTP server with OpenAI's `/v1/chat/completions`.

Each request takes the next step of the script, and the default once the script is over. What came is kept in `calls`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web

from support.servers import free_port

PIECE = 7
"""Characters in a streamed chunk."""

Ill = Literal[
    "hang", "hang midway", "truncate", "reset", "no end mark", "no finish", "rubbish lines", "broken chunk",
    "error in stream", "web page", "bad json", "empty", "whole",
]  # fmt: skip


@dataclass(frozen=True)
class Reply:
    """One step: an answer, an error status, or an answer with something wrong about it.

    `ill` names what is wrong: `hang` never answers, `hang midway` stops in the middle and keeps the connection,
    `truncate` ends the stream in the middle, `reset` cuts the connection at once, `no end mark` and `no finish` leave
    out `[DONE]` and the reason to stop, `rubbish lines` come between the chunks, `broken chunk` is half a chunk in the
    middle, `error in stream` says in a chunk that it is overloaded, `web page` is HTML with status 200, `bad json` a
    broken body, `empty` an answer of no text, `whole` a plain body where a stream was asked for. `between` chunks so
    many seconds pass.
    """

    text: str | Callable[[dict[str, Any]], str] = "I know this [1]."
    status: int = 200
    retry_after: str | None = None
    words: str = "no"
    ill: Ill | None = None
    usage: tuple[int, int] | None = (100, 20)
    finish: str = "stop"
    between: float = 0.0


@dataclass(frozen=True)
class Call:
    """A request as it came."""

    body: dict[str, Any]
    headers: dict[str, str]


@dataclass
class FakeModel:
    """`base_url` is what `llm.base_url` is set to. `released` lets go of what hangs; it is set when the server ends."""

    base_url: str
    default: Reply = field(default_factory=Reply)
    script: deque[Reply] = field(default_factory=deque)
    calls: list[Call] = field(default_factory=list)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    spoke_at: list[float] = field(default_factory=list)
    """When each answer began, by the monotonic clock."""
    hung_up: int = 0
    """How many callers left before their answer was over."""

    def then(self, *replies: Reply) -> None:
        """Add steps to the script."""
        self.script.extend(replies)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a request by the next step."""
        body = await request.json()
        self.calls.append(Call(body, dict(request.headers)))
        reply = self.script.popleft() if self.script else self.default
        text = reply.text if isinstance(reply.text, str) else reply.text(body)
        if reply.status != 200:
            return _refused(reply)
        if reply.ill == "hang":
            await self.released.wait()
        if reply.ill == "reset":
            assert request.transport is not None
            request.transport.abort()
        if reply.ill == "web page":
            return web.Response(text="<html><body>Sign in</body></html>", content_type="text/html")
        if reply.ill == "bad json":
            return web.Response(text='{"choices": [{"mess', content_type="application/json")
        if not body.get("stream") or reply.ill == "whole":
            return web.json_response(_whole(text, reply, body["model"]))
        return await self._stream(request, "" if reply.ill == "empty" else text, reply, body)

    async def _stream(self, request: web.Request, text: str, reply: Reply, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        pieces = [text[start : start + PIECE] for start in range(0, len(text), PIECE)]
        for number, piece in enumerate(pieces):
            if number == len(pieces) // 2:
                if reply.ill == "hang midway":
                    await self.released.wait()
                if reply.ill == "truncate":
                    return await _cut(request, response)
                await response.write(_illness(reply))
            await self._say(response, number, _chunk(body["model"], _delta(piece)), between=reply.between)
        if reply.ill != "no finish":
            await response.write(_event(_chunk(body["model"], {"delta": {}, "finish_reason": reply.finish})))
        if reply.usage and body.get("stream_options", {}).get("include_usage"):
            await response.write(_event({**_chunk(body["model"]), "usage": _usage(reply.usage)}))
        if reply.ill not in {"no end mark", "no finish"}:
            await response.write(b"data: [DONE]\r\n\r\n")
        await response.write_eof()
        return response

    async def _say(self, response: web.StreamResponse, number: int, chunk: dict[str, Any], *, between: float) -> None:
        if number == 0:
            self.spoke_at.append(time.monotonic())
        elif between:
            await asyncio.sleep(between)
        try:
            await response.write(_event(chunk))
        except ConnectionError:
            self.hung_up += 1
            raise


@asynccontextmanager
async def fake_model(default: Reply | None = None) -> AsyncIterator[FakeModel]:
    """A running model on a free port; what it holds is let go at the end."""
    port = free_port()
    model = FakeModel(f"http://127.0.0.1:{port}/v1", default or Reply())
    app = web.Application()
    app.router.add_post("/v1/chat/completions", model.handle)
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield model
    finally:
        model.released.set()
        await runner.cleanup()


def _refused(reply: Reply) -> web.Response:
    headers = {"Retry-After": reply.retry_after} if reply.retry_after else {}
    return web.json_response({"error": {"message": reply.words, "type": "test"}}, status=reply.status, headers=headers)


async def _cut(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """End the connection so that what was written arrives, and the end of the stream does not."""
    assert request.transport is not None
    request.transport.close()
    return response


def _illness(reply: Reply) -> bytes:
    """What goes wrong in the middle of a stream."""
    if reply.ill == "rubbish lines":
        return b": keep-alive\n\nevent: ping\ndata: ping\n\nnonsense\n\xff\xfe\n\ndata:\n\nretry: 5\n\n"
    if reply.ill == "broken chunk":
        return b'data: {"choices": [{"delta": {"content": "lo\n\n'
    if reply.ill == "error in stream":
        return _event({"error": {"message": "try later", "code": "rate_limit_exceeded"}})
    return b""


def _whole(text: str, reply: Reply, model: str) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reply.finish}
    usage = {"usage": _usage(reply.usage)} if reply.usage else {}
    return {"id": "1", "object": "chat.completion", "model": model, "choices": [choice], **usage}


def _chunk(model: str, *choices: dict[str, Any]) -> dict[str, Any]:
    return {"id": "1", "object": "chat.completion.chunk", "model": model, "choices": list(choices)}


def _delta(piece: str) -> dict[str, Any]:
    return {"delta": {"content": piece}, "finish_reason": None}


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def _usage(usage: tuple[int, int]) -> dict[str, int]:
    return {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
