"""What an OpenAI-compatible chat completion says, streamed or whole, and what its errors mean. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from engram_contracts.errors import EngramError, Internal, Overloaded, Rejected, Unavailable
from engram_reasoner.words import shortened

LONGEST_RETRY_AFTER = 3_600.0
LONGEST_WORDS = 300
END = "[DONE]"

FULL = frozenset({429, 529})
AWAY = frozenset({408, 425, 502, 503, 504})
"""Statuses that speak of the upstream as a whole. A bare 500 may be this one request's fault, so its tries count."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Said(_Part):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class _Choice(_Part):
    delta: _Said | None = None
    message: _Said | None = None
    finish_reason: str | None = None


class _Usage(_Part):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Chunk(_Part):
    choices: tuple[_Choice, ...] | None = None
    usage: _Usage | None = None
    model: str | None = None
    error: object = None


@dataclass(slots=True)
class Draft:
    """A completion as it comes in.

    `begun` once the model said or thought anything; `finish` is why it stopped, `None` while it goes on; `tokens`
    is what the provider counted, prompt and completion. `safe` takes out of its words what is not for others.
    """

    pieces: list[str] = field(default_factory=list)
    begun: bool = False
    finish: str | None = None
    tokens: tuple[int, int] | None = None
    model: str | None = None
    safe: Callable[[str], str] = str

    @property
    def text(self) -> str:
        """All that was said so far."""
        return "".join(self.pieces)

    def take(self, payload: str) -> str:
        """Add a chunk, a whole completion, or the end mark; what it adds to the text.

        A payload that is no JSON object is rubbish between chunks and adds nothing. A broken object may have been
        part of the answer, so it raises `Internal`; an error in the stream raises what it stands for.
        """
        if payload == END:
            self.finish = self.finish or "stop"
        if not payload.lstrip().startswith("{"):
            return ""
        try:
            chunk = _Chunk.model_validate_json(payload)
        except ValidationError as error:
            raise Internal("the model sent a chunk that cannot be read") from error
        if chunk.error:
            raise refusal(_status_in(chunk.error), {}, shortened(self.safe(words_of(payload)), LONGEST_WORDS))
        if chunk.usage is not None:
            self.tokens = (chunk.usage.prompt_tokens or 0, chunk.usage.completion_tokens or 0)
        self.model = chunk.model or self.model
        return self._choice(chunk.choices[0]) if chunk.choices else ""

    def _choice(self, choice: _Choice) -> str:
        said = choice.delta or choice.message or _Said()
        self.begun = self.begun or bool(said.content or said.reasoning or said.reasoning_content)
        self.pieces.append(said.content or "")
        self.finish = choice.finish_reason or self.finish
        return said.content or ""


def refusal(status: int, headers: Mapping[str, str], words: str, *, now: datetime | None = None) -> EngramError:
    """The family's error for an answer that is none, by HTTP status."""
    said = f"the model answered {status}" + (f": {words}" if words else "")
    after = retry_after(headers, now=now)
    if status in FULL:
        return Overloaded(said, retry_after=after)
    if status in AWAY:
        return Unavailable(said, retry_after=after)
    if status >= 500:
        return Internal(said, retry_after=after)
    return Rejected(f"{said}; check llm.base_url, llm.model, llm.api_key and the model asked for")


def retry_after(headers: Mapping[str, str], *, now: datetime | None) -> float | None:
    """Seconds the upstream asks to wait, at most an hour; the header holds seconds or a date (RFC 9110, 10.2.3)."""
    text = headers.get("Retry-After", "").strip()
    seconds: float | None = None
    try:
        seconds = float(text)
    except ValueError:
        seconds = _seconds_until(text, now) if text and now else None
    if seconds is None or math.isnan(seconds):
        return None
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)


def words_of(body: str) -> str:
    """The message in an error's body, or the body itself where it has no such form. Some wrap the error in a list."""
    try:
        tree = json.loads(body)
    except ValueError:
        return body
    tree = tree[0] if isinstance(tree, list) and tree else tree
    error = tree.get("error", tree) if isinstance(tree, dict) else tree
    message = error.get("message") if isinstance(error, dict) else error
    return message if isinstance(message, str) else body


def _status_in(error: object) -> int:
    """The HTTP status an error inside a stream stands for; 500 where it does not say."""
    code = (error.get("code") or error.get("status") or error.get("type")) if isinstance(error, dict) else None
    if isinstance(code, str) and "rate_limit" in code:
        return 429
    try:
        return min(max(int(str(code)), 400), 599)
    except ValueError:
        return 500


def _seconds_until(text: str, now: datetime) -> float | None:
    try:
        return (parsedate_to_datetime(text) - now).total_seconds()
    except (ValueError, TypeError):
        return None
