"""A stream that is to go on behind a sequence: written aside, made anew, and filled again.

What it holds is first kept in a file, so that a run which was cut short is finished by the next.
"""

from __future__ import annotations

import json
import os
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from engram_contracts.topology import Stream
from engram_runtime.bus import Appended, Bus, Entry, Stored

PAGE = 500


async def keep_aside(bus: Bus, stream: Stream, file: Path) -> int:
    """Write all that a stream holds to a file, durably; how many messages. A file that is there stays as it is."""
    if not is_kept(file):
        part = file.with_suffix(".part")
        with _written(part) as out:
            after = 0
            while page := await bus.archive(stream).read(after + 1, pattern=stream.subjects[0], limit=PAGE):
                out.writelines(json.dumps(_told(stored)) + "\n" for stored in page)
                after = page[-1].sequence
        _rename(part, file)
    return sum(1 for _ in _lines(file))


def is_kept(file: Path) -> bool:
    """Whether a run before this one has written the stream aside, and was cut short."""
    return file.exists()


async def fill(bus: Bus, file: Path, advance: Callable[[int], None]) -> None:
    """Append what the file holds, in its order, and take the file away. Raises the first refusal."""
    lot: list[Entry] = []
    for line in _lines(file):
        lot.append(_entry(line))
        if len(lot) == PAGE:
            await _append(bus, lot, advance)
            lot = []
    await _append(bus, lot, advance)
    _remove(file)


async def _append(bus: Bus, lot: list[Entry], advance: Callable[[int], None]) -> None:
    for outcome in await bus.append(lot):
        if not isinstance(outcome, Appended):
            raise outcome
    advance(len(lot))


@contextmanager
def _written(file: Path) -> Iterator[IO[str]]:
    """A file to write to, on the disk when the context ends."""
    with file.open("w") as out:
        yield out
        out.flush()
        os.fsync(out.fileno())


def _rename(part: Path, file: Path) -> None:
    part.replace(file)


def _remove(file: Path) -> None:
    file.unlink()


def _lines(file: Path) -> Iterator[str]:
    with file.open() as lines:
        yield from lines


def _told(stored: Stored) -> dict[str, object]:
    body = b64encode(stored.body).decode()
    return {"subject": stored.subject, "body": body, "id": stored.id, "headers": dict(stored.headers)}


def _entry(line: str) -> Entry:
    said = json.loads(line)
    own = {name: value for name, value in said["headers"].items() if not name.lower().startswith("nats-")}
    return Entry(subject=said["subject"], body=b64decode(said["body"]), id=said["id"] or said["subject"], headers=own)
