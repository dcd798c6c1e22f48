"""Server-sent events, as chat completions use them: `data:` lines out of bytes that are cut anywhere. Pure.

Format: WHATWG HTML, 9.2 Server-sent events. Other fields, comments and lines that are neither are skipped.
"""

from __future__ import annotations

from engram_contracts.errors import Internal

LONGEST_LINE = 1024 * 1024


class DataLines:
    """Collects bytes and gives the payloads of the `data:` lines that are complete."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[str]:
        """Payloads that end in this piece. Raises `Internal` when a line grows past `LONGEST_LINE` bytes."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            raise Internal(f"the model sent a line of more than {LONGEST_LINE} bytes")
        return _payloads(lines)

    def close(self) -> list[str]:
        """The payload of a last line without an end."""
        line, self._rest = self._rest, b""
        return _payloads([line])


def _payloads(lines: list[bytes]) -> list[str]:
    data = (line.rstrip(b"\r")[5:] for line in lines if line.startswith(b"data:"))
    return [text for line in data if (text := line.decode("utf-8", "replace").strip())]
