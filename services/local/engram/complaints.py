"""What the broker complains about: a stream that could not be written once refuses until the broker is started anew."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

COMPLAINT = b"critical write error"
ROOM = 64 * 1024 * 1024
"""So many bytes must be free before it is worth another try."""
PAUSE_SECONDS = 15.0


class Complaints:
    """Reads what is new in the broker's log. `folder` is where it keeps its streams."""

    def __init__(self, log: Path, folder: Path) -> None:
        self._log = log
        self._folder = folder
        self._read_to = log.stat().st_size if log.exists() else 0
        self._failed = False
        self._due = 0.0

    def mendable(self, now: float) -> bool:
        """Whether it could not write, and there is room by now; at most once in 15 s. `now` is monotonic seconds."""
        self._failed = COMPLAINT in self._news() or self._failed
        if not self._failed or now < self._due or shutil.disk_usage(self._folder).free < ROOM:
            return False
        self._failed, self._due = False, now + PAUSE_SECONDS
        return True

    def _news(self) -> bytes:
        """What was written since; a log that was begun anew is read from its beginning."""
        try:
            with self._log.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(self._read_to if self._read_to <= size else 0)
                news = log.read()
                self._read_to = log.tell()
                return news
        except OSError:
            return b""
