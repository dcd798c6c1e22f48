"""The command's way to the HTTP door: where it is, which key opens it, one call."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from engram.trust import trusting
from engram_contracts.errors import FAMILY, Internal, Rejected, Unauthorized, Unavailable

SECONDS = 120.0
"""How long one call may take; the door itself answers a question of a model within 60."""
QUIET_SECONDS = 60.0
"""How long a stream may be silent; the door gives a sign of life every 15."""


class Door:
    """A connection to Engram's door. Calls raise the error family, as the door answers it."""

    def __init__(self, url: str, key: str | None, *, tenant: str | None = None, certificate: str | None = None) -> None:
        self.url = url.rstrip("/")
        self._certificate = certificate
        self._key = key.strip() if key else None
        self._tenant = tenant
        self._session: aiohttp.ClientSession | None = None

    @classmethod
    def find(cls, *, url: str | None, key: str | None, data_dir: Path, tenant: str | None = None) -> Door:
        """The door that was named, else the one that runs on this data directory, with the key that lies there.

        With a `tenant` (or `_system`) it speaks for that one; the key that lies there is then the installation's.
        """
        lies = data_dir / ("admin.key" if tenant is None else "system.key")
        runs = running(data_dir)
        certificate = None if url else runs.get("certificate")
        at = url or runs.get("url") or "http://127.0.0.1:8765"
        return cls(at, key or _read(lies), tenant=tenant, certificate=certificate)

    async def __aenter__(self) -> Self:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        if self._tenant:
            headers["X-Engram-Tenant"] = self._tenant
        trusted = trusting(Path(self._certificate)) if self._certificate else True
        self._session = aiohttp.ClientSession(
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=SECONDS),
            connector=aiohttp.TCPConnector(ssl=trusted),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def call(self, method: str, path: str, body: Any = None, **query: Any) -> dict[str, Any]:
        """The envelope of the answer. Raises the door's error, or `Unavailable` when there is no door."""
        return _opened(*await self._asked(method, path, body, query))

    async def fetch(self, path: str, **query: Any) -> bytes:
        """An answer that is a file. Raises as `call`."""
        status, content, retry_after = await self._asked("GET", path, None, query)
        if status >= 400:
            _opened(status, content, retry_after)
        return content

    async def _asked(
        self, method: str, path: str, body: Any, query: Mapping[str, Any]
    ) -> tuple[int, bytes, str | None]:
        assert self._session is not None
        data = None if body is None else _encoded(body)
        chosen = {name: str(value) for name, value in query.items() if value is not None}
        try:
            async with self._session.request(method, f"{self.url}{path}", data=data, params=chosen) as answer:
                return answer.status, await answer.read(), answer.headers.get("Retry-After")
        except TimeoutError as error:
            raise Unavailable(f"no answer from {self.url} within {SECONDS:g} s; see `engram status`") from error
        except aiohttp.ClientError as error:
            raise Unavailable(f"no Engram at {self.url} ({error}); start it with `engram serve`") from error

    async def stream(self, method: str, path: str, body: Any = None, **query: Any) -> AsyncIterator[Event]:
        """The events of a stream until the door ends it. Raises as `call`, also where the connection breaks."""
        assert self._session is not None
        data = None if body is None else _encoded(body)
        chosen = [(name, str(one)) for name, value in query.items() for one in _listed(value)]
        patience = aiohttp.ClientTimeout(total=None, sock_connect=QUIET_SECONDS, sock_read=QUIET_SECONDS)
        headers = {"Accept": "text/event-stream"}
        try:
            async with self._session.request(
                method, f"{self.url}{path}", data=data, params=chosen, headers=headers, timeout=patience
            ) as answer:
                if answer.content_type != "text/event-stream":
                    _opened(answer.status, await answer.read(), answer.headers.get("Retry-After"))
                    raise Internal("the door answered with no stream")
                async for event in _events(answer.content):
                    yield event
        except TimeoutError as error:
            raise Unavailable(f"no sign of life from {self.url} within {QUIET_SECONDS:g} s") from error
        except aiohttp.ClientError as error:
            raise Unavailable(f"no Engram at {self.url} ({error}); start it with `engram serve`") from error


@dataclass(frozen=True, slots=True)
class Event:
    """A server-sent event."""

    name: str
    data: dict[str, Any]
    id: int | None = None


async def _events(lines: aiohttp.StreamReader) -> AsyncIterator[Event]:
    fields: dict[str, str] = {}
    async for raw in lines:
        name, _, value = raw.decode().rstrip("\r\n").partition(":")
        if name:
            fields[name] = value.removeprefix(" ")
        elif "data" in fields:
            number = fields.get("id")
            yield Event(fields.get("event", "message"), json.loads(fields["data"]), int(number) if number else None)
            fields = {}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def running(data_dir: Path) -> dict[str, Any]:
    """What the Engram that runs on this data directory says of itself; empty when none does."""
    text = _read(data_dir / "run.json")
    found: dict[str, Any] = json.loads(text) if text else {}
    return found


def _encoded(body: Any) -> bytes:
    try:
        return json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Rejected("the text is not valid Unicode; send it as UTF-8") from None


def _opened(status: int, body: bytes, retry_after: str | None) -> dict[str, Any]:
    try:
        envelope: dict[str, Any] = json.loads(body)
    except ValueError:
        raise Internal(f"the door answered {status} with no JSON") from None
    error = envelope.get("error")
    if status < 400 and not error:
        return envelope
    if status == 401:
        raise Unauthorized("the key is missing or not accepted; set ENGRAM_API_KEY or use the right --data-dir")
    kind = FAMILY.get((error or {}).get("code", ""), Internal)
    wait = float(retry_after) if retry_after and retry_after.isdigit() else None
    raise kind((error or {}).get("message", f"status {status}"), field=(error or {}).get("field"), retry_after=wait)


def _read(file: Path) -> str | None:
    try:
        return file.read_text().strip()
    except OSError:
        return None
