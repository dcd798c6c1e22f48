"""The door's description of itself: the OpenAPI document, made when it is first asked for, and a page that shows it."""

from __future__ import annotations

import asyncio
from hashlib import blake2b
from importlib.metadata import version
from importlib.resources import files

from engram_api.calls import Answer, Page
from engram_api.routes import OPERATIONS
from engram_contracts.errors import NotFound

TYPES = {
    "index.html": "text/html; charset=utf-8",
    "docs.js": "text/javascript; charset=utf-8",
    "docs.css": "text/css; charset=utf-8",
}
OWN_ONLY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
"""What the page may load: nothing but its own files, and the document."""


class Documents:
    """Answers that are files, each with an `ETag` by which a client that has it is spared its body."""

    def __init__(self) -> None:
        self._openapi: Answer | None = None
        self._making = asyncio.Lock()

    async def openapi(self) -> Answer:
        """The document; the first to ask has it made, beside the event loop."""
        async with self._making:
            if self._openapi is None:
                self._openapi = await asyncio.to_thread(_openapi)
        return self._openapi

    def file(self, name: str) -> Answer:
        """A file of the page. Raises `NotFound` for any other name."""
        if name not in TYPES:
            raise NotFound("the page has no such file")
        body = files("engram_api").joinpath("pages", name).read_bytes()
        return _cached(body, TYPES[name])


def _openapi() -> Answer:
    from engram_api.openapi import document  # noqa: PLC0415 (its library is needed for this alone)

    return _cached(document(OPERATIONS, version=version("engram-api")), "application/json")


def _cached(body: bytes, content_type: str) -> Answer:
    headers = {
        "ETag": f'"{blake2b(body, digest_size=12).hexdigest()}"',
        "Cache-Control": "no-cache",
        "Content-Security-Policy": OWN_ONLY,
    }
    return Answer(data=Page(body, content_type), headers=headers)
