"""From an aiohttp request to what a handler gets: body, query, preferences, ids."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from aiohttp import StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDictProxy, MultiDictProxy, MultiMapping
from pydantic import BaseModel
from yarl import URL

from engram_api.access import Caller
from engram_api.admission import Place
from engram_api.bodies import PLAIN, inflate, too_large
from engram_api.calls import Prefer
from engram_contracts.errors import Rejected
from engram_contracts.messages import in_utc

MEDIA_TYPES = ("application/json", "application/merge-patch+json")
DEADLINE = "Engram-Deadline"
MAX_CORRELATION = 128
MAX_IDEMPOTENCY_KEY = 255
_NOT_IN_CORRELATION = re.compile(r"[^A-Za-z0-9._:/+=@-]", re.ASCII)
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}", re.ASCII)
_PREFERENCE = re.compile(r'\s*([A-Za-z-]+)\s*(?:=\s*"?([^",;]*)"?)?')
_NOTHING_PREFERRED = Prefer()


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoken:
    """A request that came as a message on a WebSocket: what the door reads of one, under the names it has over HTTP."""

    method: str
    rel_url: URL
    headers: CIMultiDictProxy[str]
    match_info: Mapping[str, str]
    body: bytes
    remote: str | None
    host: str
    caller: Caller
    streamed: bool = False

    @property
    def query(self) -> MultiDictProxy[str]:
        """The parameters behind the path."""
        return self.rel_url.query

    @property
    def query_string(self) -> str:
        """The same as text."""
        return self.rel_url.query_string

    @property
    def content_length(self) -> int | None:
        """Bytes of the body."""
        return len(self.body)


Request = web.Request | Spoken


async def read_body(request: Request, place: Place, *, limit: int, seconds: float) -> bytes:
    """The whole body, unpacked. Raises `Rejected`: 413 past `limit` bytes, 415 for what is not JSON, 408 when late.

    Room for it is made in `place` first; a body that does not tell its length may take all of `limit`.
    """
    if isinstance(request, Spoken):
        if len(request.body) > limit:
            raise too_large(limit)
        place.reserve(len(request.body))
        return request.body
    _check_media_type(request)
    encoding = request.headers.get("Content-Encoding", "").strip().lower()
    length = request.content_length
    if (length or 0) > limit:
        raise too_large(limit)
    place.reserve(limit if length is None or encoding not in PLAIN else length)
    content = request.content
    if content.is_eof():
        raw = content.read_nowait()
    else:
        raw = await _collect(content, limit, seconds)
    if len(raw) > limit:
        raise too_large(limit)
    if encoding in PLAIN:
        return raw
    return await asyncio.to_thread(inflate, raw, encoding, limit)  # so many at once would hold everybody up


async def _collect(content: StreamReader, limit: int, seconds: float) -> bytes:
    parts = bytearray()
    try:
        async with asyncio.timeout(seconds):
            while chunk := await content.readany():
                parts += chunk
                if len(parts) > limit:
                    raise too_large(limit)
    except TimeoutError as error:
        raise Rejected(f"the body did not arrive within {seconds:g} s", field="body", status=408) from error
    except (web.RequestPayloadError, HttpProcessingError, ConnectionError) as error:
        raise Rejected("the body is broken off or wrongly framed", field="body") from error
    return bytes(parts)


def _check_media_type(request: web.Request) -> None:
    if request.content_type not in MEDIA_TYPES:
        raise Rejected("send the body as Content-Type: application/json", field="Content-Type", status=415)
    charset = request.charset
    if charset is not None and charset.lower() not in ("utf-8", "utf8", "us-ascii"):
        raise Rejected("send the body as UTF-8", field="Content-Type", status=415)


def correlation_id(headers: MultiMapping[str], request_id: str) -> str:
    """The client's correlation id, cut and cleaned for logs and headers, else the request's own."""
    given = headers.get("X-Correlation-ID")
    if given is None:
        return request_id
    return _NOT_IN_CORRELATION.sub("", given[:MAX_CORRELATION]) or request_id


def idempotency_key(headers: MultiMapping[str]) -> str | None:
    """The client's key for repeats of one request. Raises `Rejected` when it is not 1 to 255 visible characters."""
    keys = headers.getall("Idempotency-Key", [])
    if not keys:
        return None
    if len(keys) > 1 or not _IDEMPOTENCY_KEY.fullmatch(keys[0]):
        raise Rejected(
            f"Idempotency-Key must be given once, with 1 to {MAX_IDEMPOTENCY_KEY} visible ASCII characters",
            field="Idempotency-Key",
        )
    return keys[0]


def wants_events(request: Request) -> bool:
    """Whether the client would have events as they happen."""
    if isinstance(request, Spoken):
        return request.streamed
    return "text/event-stream" in request.headers.get("Accept", "")


def last_event(headers: MultiMapping[str]) -> int | None:
    """The id in `Last-Event-ID`. Raises `Rejected` where it is not one that was ever given."""
    given = headers.get("Last-Event-ID", "").strip()
    if not given:
        return None
    if not (given.isascii() and given.isdigit() and len(given) < 16):
        raise Rejected("Last-Event-ID must be the id of an event", field="Last-Event-ID")
    return int(given)


def deadline(headers: MultiMapping[str]) -> datetime | None:
    """The time in `Engram-Deadline` (ISO 8601; UTC where it names no zone). Raises `Rejected` for anything else."""
    given = headers.getall(DEADLINE, [])
    if not given:
        return None
    try:
        if len(given) > 1:
            raise ValueError("given twice")
        return in_utc(datetime.fromisoformat(given[0].strip()))
    except ValueError as error:
        raise Rejected(f"{DEADLINE} must be one time, such as 2026-01-31T12:00:00Z", field=DEADLINE) from error


def preferences(headers: MultiMapping[str]) -> Prefer:
    """What `Prefer` asks for (RFC 7240); what is not understood is passed over, as the RFC wants."""
    given = headers.getall("Prefer", [])
    if not given:
        return _NOTHING_PREFERRED
    found: dict[str, str] = {}
    for part in ",".join(given).split(","):
        if match := _PREFERENCE.match(part):
            found.setdefault(match.group(1).lower(), match.group(2) or "")
    wait = found.get("wait", "")
    return Prefer(
        wait=float(wait) if wait.isascii() and wait.isdigit() else None, respond_async="respond-async" in found
    )


def nothing(kind: type[BaseModel]) -> BaseModel | None:
    """What an empty query means for this model, or `None` where it has required fields."""
    if any(field.is_required() for field in kind.model_fields.values()):
        return None
    return kind()
