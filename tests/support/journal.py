"""What a client was promised: every acknowledgement, on disk before it counts, and every intent, in memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any


def fingerprint(content: str) -> str:
    """Names a text; equal texts have equal names."""
    return blake2b(content.encode(), digest_size=16).hexdigest()


@dataclass
class Story:
    """What was asked of one memory. Of each content: whether it was acknowledged, or only sent."""

    tenant: str
    first: str
    id: str | None = None
    acked: bool = False
    revised: str | None = None
    revision_acked: bool = False
    forgetting: bool = False
    forgotten_acked: bool = False


class Journal:
    """Acknowledgements in a file that is fsynced, line by line; the file is what is audited."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.sent: dict[str, str] = {}
        """Fingerprint to tenant, of everything that was ever sent."""
        self.unsure: dict[str, tuple[str, str]] = {}
        """Changes of memories that were sent and not acknowledged: id to what, and its fingerprint."""
        self.written = 0

    def intend(self, tenant: str, content: str) -> str:
        """Note a text that is about to be sent; its fingerprint."""
        name = fingerprint(content)
        self.sent[name] = tenant
        return name

    async def acknowledge(self, *lines: dict[str, Any]) -> None:
        """Write down what was promised; on disk when it returns."""
        body = b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines)
        await asyncio.to_thread(self._write, body)
        self.written += len(lines)

    def _write(self, body: bytes) -> None:
        os.write(self._handle, body)
        os.fsync(self._handle)

    def close(self) -> None:
        """Nothing more comes."""
        os.close(self._handle)

    def lines(self) -> Iterator[dict[str, Any]]:
        """Every acknowledgement, as the file has it."""
        with self.file.open("rb") as lines:
            for line in lines:
                yield json.loads(line)

    def stories(self) -> dict[str, Story]:
        """What was promised of each memory, by its id."""
        found: dict[str, Story] = {}
        for line in self.lines():
            story = found.setdefault(line["id"], Story(line["tenant"], "", line["id"]))
            if line["op"] == "remember":
                story.first, story.acked = line["hash"], True
            elif line["op"] == "revise":
                story.revised, story.revision_acked = line["hash"], True
            elif line["op"] == "forget":
                story.forgetting = story.forgotten_acked = True
        for memory_id, (op, name) in self.unsure.items():
            story = found[memory_id]
            if op == "revise" and not story.revision_acked:
                story.revised = name
            if op == "forget":
                story.forgetting = True
        return found


@dataclass
class Attempt:
    """One request: when it was sent and answered (monotonic seconds), of what kind, and how it ended."""

    kind: str
    tenant: str
    began: float
    ended: float
    status: int
    """The HTTP status; 0 where the connection failed or nothing came in time."""
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether it was served."""
        return 200 <= self.status < 300


@dataclass
class Attempts:
    """All requests of a run."""

    all: list[Attempt] = field(default_factory=list)

    def of(self, kind: str, *, since: float = 0.0, until: float = float("inf")) -> list[Attempt]:
        """Those of a kind that were sent in a stretch of time; writes are all kinds but recall and think."""
        return [a for a in self.all if _is(a, kind) and since <= a.began < until]

    def next_success(self, kind: str, after: float) -> float | None:
        """Seconds from a moment to the first success of a request that was sent after it."""
        ended = [a.ended for a in self.of(kind, since=after, until=after + 60.0) if a.ok]
        return min(ended) - after if ended else None

    def longest_gap(self, kind: str, since: float, until: float) -> float:
        """The longest stretch without a success."""
        times = sorted(a.ended for a in self.all if _is(a, kind) and a.ok and since <= a.ended <= until)
        marks = [since, *times, until]
        return max(later - earlier for earlier, later in pairwise(marks))

    def p95_ms(self, kind: str, since: float = 0.0, until: float = float("inf"), *, tenant: str | None = None) -> float:
        """The 95th percentile of what was served, in milliseconds; NaN where nothing was."""
        return p95_ms([a for a in self.of(kind, since=since, until=until) if tenant in (None, a.tenant)])

    def statuses(self, kind: str, since: float = 0.0, until: float = float("inf")) -> dict[int, int]:
        """How often each status came."""
        counts: dict[int, int] = {}
        for attempt in self.of(kind, since=since, until=until):
            counts[attempt.status] = counts.get(attempt.status, 0) + 1
        return dict(sorted(counts.items()))

    def refusals(self, kind: str) -> list[tuple[str, int]]:
        """What those were told that were not served, the most frequent first."""
        return Counter(f"{a.kind} {a.status} {a.note}" for a in self.of(kind) if not a.ok).most_common(6)


class Spans:
    """Stretches of time that are looked at together."""

    def __init__(self) -> None:
        self._spans: list[tuple[float, float]] = []

    @contextlib.contextmanager
    def span(self) -> Iterator[None]:
        """The length of the block belongs to it."""
        began = time.monotonic()
        yield
        self.add(began, time.monotonic())

    def add(self, began: float, ended: float) -> None:
        """This stretch belongs to it, in monotonic seconds."""
        self._spans.append((began, ended))

    def of(self, attempts: list[Attempt]) -> list[Attempt]:
        """Those that were sent then."""
        return [a for a in attempts if any(began <= a.began < ended for began, ended in self._spans)]


def p95_ms(attempts: list[Attempt]) -> float:
    """The 95th percentile of those that were served, in milliseconds; NaN where none was."""
    return percentile([1_000 * (a.ended - a.began) for a in attempts if a.ok], 95)


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` percent lie; NaN of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share / 100))] if ordered else float("nan")


def _is(attempt: Attempt, kind: str) -> bool:
    if kind == "write":
        return attempt.kind not in {"recall", "think"}
    return attempt.kind == kind
