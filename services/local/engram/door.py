"""The command's way to the HTTP door: where it is, which key opens it, one call."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from engram_contracts.errors import FAMILY, Internal, Unauthorized, Unavailable


class Door:
    """A connection to Engram's door. Calls raise the error family, as the door answers it."""

    def __init__(self, url: str, key: str | None) -> None:
        self.url = url.rstrip("/")
        self._key = key
        self._session: aiohttp.ClientSession | None = None

    @classmethod
    def find(cls, *, url: str | None, key: str | None, data_dir: Path) -> Door:
        """The door named by flags or environment, else the one that runs on this data directory."""
        url = url or os.environ.get("ENGRAM_URL") or running(data_dir).get("url") or "http://127.0.0.1:8765"
        key = key or os.environ.get("ENGRAM_API_KEY") or _read(data_dir / "admin.key")
        return cls(url, key)

    async def __aenter__(self) -> Self:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._session = aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=120))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def call(self, method: str, path: str, body: Any = None, **query: Any) -> dict[str, Any]:
        """The envelope of the answer. Raises the door's error, or `Unavailable` when there is no door."""
        assert self._session is not None
        chosen = {name: str(value) for name, value in query.items() if value is not None}
        try:
            async with self._session.request(method, f"{self.url}{path}", json=body, params=chosen) as answer:
                return _opened(answer.status, await answer.read(), answer.headers.get("Retry-After"))
        except aiohttp.ClientError as error:
            raise Unavailable(f"no Engram at {self.url} ({error}); start it with `engram serve`") from error


def running(data_dir: Path) -> dict[str, Any]:
    """What the Engram that runs on this data directory says of itself; empty when none does."""
    text = _read(data_dir / "run.json")
    found: dict[str, Any] = json.loads(text) if text else {}
    return found


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
