"""What stands in the files of a system."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path

CHUNK = 4 * 1024 * 1024


def files_with(folder: Path, wanted: Collection[bytes]) -> list[str]:
    """Files under a folder in whose bytes any of these stands.

    The system may go on working meanwhile: its files grow, shrink and vanish while they are read, so they are not
    mapped into memory, where that ends the process.
    """
    files = (file for file in folder.rglob("*") if file.is_file())
    return sorted(str(file.relative_to(folder)) for file in files if _holds(file, wanted))


def _holds(file: Path, wanted: Collection[bytes]) -> bool:
    overlap = max(map(len, wanted)) - 1
    tail = b""
    with contextlib.suppress(FileNotFoundError), file.open("rb") as content:
        while part := content.read(CHUNK):
            seen = tail + part
            if any(each in seen for each in wanted):
                return True
            tail = seen[-overlap:]
    return False
