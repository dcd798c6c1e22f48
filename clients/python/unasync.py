"""Makes the synchronous client from the asynchronous one, word by word. `make client` runs it, a test compares."""

from __future__ import annotations

import re
from pathlib import Path

ROOM = Path(__file__).parent / "engram_client"
FIRST = '"""The asynchronous client. The synchronous one (`synchronous.py`) is made from it by `make client`."""'
THEN = '"""The synchronous client, made from the asynchronous one by `make client`; change that one."""'
WORDS = (
    (re.escape(FIRST), THEN),
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\bimport asyncio\b", "import time"),
    (r"\basyncio\.sleep\b", "time.sleep"),
    (r"\bAsyncEngram\b", "Engram"),
    (r"\bAsyncIterator\b", "Iterator"),
    (r"\bAsyncGenerator\[(\w+), None\]", r"Generator[\1, None, None]"),
    (r"\bAsyncGenerator\b", "Generator"),
    (r"\bAsyncClient\b", "Client"),
    (r"\bAsyncBaseTransport\b", "BaseTransport"),
    (r"__aenter__", "__enter__"),
    (r"__aexit__", "__exit__"),
    (r"\baconnect_sse\b", "connect_sse"),
    (r"\b(aclose|aclosing|aiter_sse|aread)\b", lambda found: found[0][1:]),
)


def synchronous(text: str) -> str:
    """The same module without waiting for anything but the network."""
    for pattern, word in WORDS:
        text = re.sub(pattern, word, text)
    return text


if __name__ == "__main__":
    (ROOM / "synchronous.py").write_text(synchronous((ROOM / "asynchronous.py").read_text()))
