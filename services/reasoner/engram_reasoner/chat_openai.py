"""Chat completions over HTTP, as OpenAI defined them and Gemini, Ollama, vLLM and others speak them.

Reference: https://platform.openai.com/docs/api-reference/chat. One request a call: the stream that brought the work
repeats it, not this adapter.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp

from engram_contracts.errors import EngramError, Internal, Rejected, Unavailable
from engram_contracts.facts import ModelUse
from engram_reasoner import metrics
from engram_reasoner.completion import END, LONGEST_WORDS, Draft, refusal, words_of
from engram_reasoner.context import estimate
from engram_reasoner.ports import ChatMessage, Completion, Relay, unheard
from engram_reasoner.settings import LlmSettings
from engram_reasoner.sse import DataLines
from engram_reasoner.words import shortened
from engram_runtime import tracing
from engram_runtime.breaker import is_away
from engram_runtime.redacting import redacted
from engram_runtime.tracing import Step

CONNECT_SECONDS = 5.0
LONGEST_REPLY = 16 * 1024 * 1024
LONGEST_REFUSAL = 16 * 1024


@contextlib.asynccontextmanager
async def open_chat(settings: LlmSettings) -> AsyncIterator[OpenAIChat]:
    """A chat model behind `settings.base_url`; nothing is asked of it yet."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=min(CONNECT_SECONDS, settings.first_token_seconds))
    async with aiohttp.ClientSession(timeout=timeout) as session:
        yield OpenAIChat(session, settings)


class Pause(NamedTuple):
    """Until when a model wants to be left alone (monotonic seconds), and what it said."""

    until: float
    error: EngramError


class OpenAIChat:
    """See `ChatModel`. The key is sent to the model and appears nowhere else."""

    def __init__(self, session: aiohttp.ClientSession, settings: LlmSettings) -> None:
        if settings.base_url is None or settings.model is None:
            raise Rejected("a chat model needs llm.base_url and llm.model")
        self._session = session
        self._settings = settings
        self._url = f"{settings.base_url}/chat/completions"
        self._host = urlsplit(settings.base_url).hostname or ""
        self._model = settings.model
        self._key = settings.api_key.get_secret_value() if settings.api_key else ""
        self._pauses: dict[str, Pause] = {}
        self.trouble: str | None = None

    async def complete(
        self,
        messages: Sequence[ChatMessage],
        *,
        model: str | None = None,
        relay: Relay = unheard,
        as_json: bool = False,
    ) -> Completion:
        """See `ChatModel.complete`. A model that asked to be left alone for a while is not called meanwhile."""
        named = model or self._model
        body = self._body(messages, named, as_json=as_json)
        self._heed_pause(named)
        try:
            with self._watched(named) as step:
                draft = await self._within_time(body, relay)
                completion = self._completed(draft, messages, named)
                step.set(_told(completion))
            metrics.count(named, completion.use)
        except EngramError as error:
            if error.retry == "later" or model is None:
                self.trouble = error.message
            if is_away(error) and error.retry_after:
                self._pauses[named] = Pause(time.monotonic() + error.retry_after, error)
            raise
        self.trouble = None
        return completion

    def _heed_pause(self, model: str) -> None:
        """Raise what the model said, with what is left of the pause it asked for."""
        now = time.monotonic()
        self._pauses = {name: pause for name, pause in self._pauses.items() if pause.until > now}
        if pause := self._pauses.get(model):
            raise type(pause.error)(pause.error.message, retry_after=pause.until - now)

    @contextlib.contextmanager
    def _watched(self, model: str) -> Iterator[Step]:
        """A call of the model, in metrics and in the trace."""
        label = metrics.MODELS.label(model)
        about: tracing.Attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": model,
            "gen_ai.request.max_tokens": self._settings.max_output_tokens,
            "server.address": self._host,
        }
        try:
            with metrics.SECONDS.labels(label).time(), tracing.step(f"chat {model}", "client", about) as step:
                yield step
        except BaseException as error:
            metrics.CALLS.labels(label, tracing.error_type(error)).inc()
            raise
        metrics.CALLS.labels(label, "ok").inc()

    def _body(self, messages: Sequence[ChatMessage], model: str, *, as_json: bool) -> dict[str, Any]:
        limit = "max_completion_tokens" if self._host.endswith("openai.com") else "max_tokens"
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            "stream": True,
            "stream_options": {"include_usage": True},
            limit: self._settings.max_output_tokens,
        }
        if self._settings.temperature is not None:
            body["temperature"] = self._settings.temperature
        if as_json:
            body["response_format"] = {"type": "json_object"}
        return body

    async def _within_time(self, body: dict[str, Any], relay: Relay) -> Draft:
        """The model's whole answer. No sign of one in time speaks of the model, an endless one of the question."""
        draft = Draft(safe=partial(self._safe, body))
        first = asyncio.timeout(self._settings.first_token_seconds)
        try:
            with self._translated(draft):
                async with asyncio.timeout(self._settings.timeout_seconds), first:
                    await self._exchange(body, draft, relay, first)
        except TimeoutError as error:
            if first.expired():
                waited = f"{self._settings.first_token_seconds:g} s (llm.first_token_seconds)"
                raise Unavailable(f"the model at {self._host} said nothing within {waited}") from error
            waited = f"{self._settings.timeout_seconds:g} s (llm.timeout_seconds)"
            raise Internal(f"the model at {self._host} was not done within {waited}") from error
        return draft

    async def _exchange(self, body: dict[str, Any], draft: Draft, relay: Relay, first: asyncio.Timeout) -> None:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        async with self._session.post(self._url, json=body, headers=headers, allow_redirects=False) as response:
            if response.status != 200:
                words = await _whole(response, LONGEST_REFUSAL)
                said = shortened(draft.safe(words_of(words)), LONGEST_WORDS)
                raise refusal(response.status, response.headers, said, now=datetime.now(UTC))
            async for payload in _payloads(response):
                piece = draft.take(payload)
                if draft.begun:
                    first.reschedule(None)
                if piece:
                    await relay(piece)

    @contextlib.contextmanager
    def _translated(self, draft: Draft) -> Iterator[None]:
        """aiohttp's errors as the family's; a connection that breaks behind the model's last word is none."""
        try:
            yield
        except aiohttp.ClientError as error:
            if draft.finish is None:
                raise self._broken(error, draft) from error

    def _broken(self, error: aiohttp.ClientError, draft: Draft) -> EngramError:
        if isinstance(error, aiohttp.ClientConnectionError) and not draft.begun:
            return Unavailable(f"the model at {self._host} cannot be reached: {type(error).__name__}")
        return Internal(f"the model at {self._host} broke off: {type(error).__name__}")

    def _completed(self, draft: Draft, messages: Sequence[ChatMessage], model: str) -> Completion:
        text, cut = draft.text.strip(), draft.finish == "length"
        if not text and cut:
            raise Rejected("the model used up its output before it said anything; raise llm.max_output_tokens")
        if not text and draft.finish == "content_filter":
            raise Rejected("the model's provider filtered the answer out")
        if not text:
            raise Internal(f"the model at {self._host} sent no answer")
        if draft.finish is None:
            raise Internal(f"the model at {self._host} broke off in the middle of its answer")
        return Completion(text=text, model=(draft.model or model)[:200], use=self._use(draft, messages), cut=cut)

    def _use(self, draft: Draft, messages: Sequence[ChatMessage]) -> ModelUse:
        """What the provider counted, or an estimate where it did not."""
        estimated = (sum(estimate(message.content) for message in messages), estimate(draft.text))
        prompt, completion = (max(count, 0) for count in draft.tokens or estimated)
        return ModelUse(
            prompt_tokens=prompt,
            completion_tokens=completion,
            calls=1,
            estimated=draft.tokens is None,
            cost=self._settings.cost(prompt, completion),
        )

    def _safe(self, body: Mapping[str, Any], words: str) -> str:
        """Upstream's words without the key and what it was told, should they repeat it."""
        told = [message["content"] for message in body["messages"] if message["role"] != "system"]
        return redacted(words, key=self._key, texts=told)


async def _payloads(response: aiohttp.ClientResponse) -> AsyncIterator[str]:
    """Chunks of a streamed answer up to its end mark; an answer that is not a stream is one chunk and the mark."""
    if response.content_type == "application/json":
        yield await _whole(response, LONGEST_REPLY)
        yield END
        return
    lines, size = DataLines(), 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > LONGEST_REPLY:
            raise Internal(f"the model sent more than {LONGEST_REPLY} bytes")
        for payload in lines.feed(piece):
            yield payload
            if payload == END:
                return
    for payload in lines.close():
        yield payload


async def _whole(response: aiohttp.ClientResponse, limit: int) -> str:
    """The body as text, cut at `limit` bytes."""
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) >= limit:
            break
    return body[:limit].decode("utf-8", "replace")


def _told(completion: Completion) -> tracing.Attributes:
    return {
        "gen_ai.response.model": completion.model,
        "gen_ai.usage.input_tokens": completion.use.prompt_tokens,
        "gen_ai.usage.output_tokens": completion.use.completion_tokens,
    }
