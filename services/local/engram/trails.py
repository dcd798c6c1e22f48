"""What operators ask of the audit trail, read from the broker or from an exported file."""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from engram.verifying import connected
from engram_contracts.errors import Rejected
from engram_contracts.messages import in_utc
from engram_contracts.questions import ListHeads
from engram_contracts.recovery import SYSTEM
from engram_contracts.topology import AUDIT, audit_subject
from engram_contracts.trail import Act, AuditPage, ChainCheck, Flaw, Head
from engram_runtime.bus import Bus
from engram_runtime.trail import note

ANSWER_SECONDS = 10.0
PAGES = 256
MOST_FLAWS = 1_000

Record = dict[str, Any]


async def verified(data_dir: Path, file: Path | None, tenant: str | None) -> dict[str, Any]:
    """The chains with their ends, and what does not fit in them, at most a thousand places."""
    if file is not None:
        return _verified_file(file, tenant)
    async with connected(data_dir) as bus:
        heads = await bus.ask(ListHeads(tenant=tenant), within=ANSWER_SECONDS)
        return await _verified_trail(bus, {head.tenant: head for head in heads.heads}, tenant)


async def exported(
    data_dir: Path, file: Path | None, tenant: str | None, *, since: str | None, until: str | None
) -> int:
    """Write the records of a time to a file, or to standard output; how many they were. The export is noted itself."""
    first, end = _moment("since", since), _moment("until", until)
    count = 0
    async with connected(data_dir) as bus:
        act = Act(tenant=tenant or SYSTEM, at=datetime.now(UTC), action="audit-export", actor=actor())
        await note(bus, act, writer="command")
        with _opened(file) as out:
            async for record in records(bus, tenant):
                if (first is None or _at(record) >= first) and (end is None or _at(record) < end):
                    out.write(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n")
                    count += 1
    return count


async def records(bus: Bus, tenant: str | None) -> AsyncIterator[Record]:
    """The records of one tenant's chain, or of all, in the order they were appended."""
    archive, start = bus.archive(AUDIT), 1
    pattern = audit_subject(tenant or "*")
    while pages := await archive.read(start, pattern=pattern, limit=PAGES):
        for page in pages:
            for record in AuditPage.model_validate_json(page.body).records:
                yield record
        start = pages[-1].sequence + 1


async def _verified_trail(bus: Bus, heads: dict[str, Head], tenant: str | None) -> dict[str, Any]:
    present = await bus.archive(AUDIT).subjects(audit_subject(tenant or "*"))
    names = sorted(heads.keys() | {subject.rsplit(".", 1)[1] for subject in present})
    checks, found = [], []
    for name in names:
        check = ChainCheck(name, heads.get(name))
        async for record in records(bus, name):
            found += check.take(record)
        found += check.end()
        checks.append(check)
    return _told(checks, found)


def _verified_file(file: Path, tenant: str | None) -> dict[str, Any]:
    checks: dict[str, ChainCheck] = {}
    found: list[Flaw] = []
    for record in _read(file):
        name = str(record.get("tenant"))
        if tenant in (None, name):
            found += checks.setdefault(name, ChainCheck(name, anywhere=True)).take(record)
    return _told(list(checks.values()), found)


def _read(file: Path) -> Iterator[Record]:
    try:
        with file.open() as lines:
            for number, line in enumerate(lines, 1):
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise Rejected(f"line {number} of {str(file)!r} is no record")
                yield record
    except OSError as error:
        raise Rejected(f"{str(file)!r} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise Rejected(f"{str(file)!r} does not hold lines of JSON: {error}") from error


def _told(checks: list[ChainCheck], found: list[Flaw]) -> dict[str, Any]:
    return {
        "chains": [
            {"tenant": check.tenant, "records": check.seen, "n": check.n, "hash": check.hash} for check in checks
        ],
        "flaws": [flaw.model_dump() for flaw in found[:MOST_FLAWS]],
        "flawed": len(found),
    }


@contextmanager
def _opened(file: Path | None) -> Iterator[TextIO]:
    if file is None:
        yield sys.stdout
        return
    try:
        with file.open("w") as out:
            yield out
    except OSError as error:
        raise Rejected(f"{str(file)!r} cannot be written: {error.strerror}") from error


def _moment(field: str, text: str | None) -> datetime | None:
    try:
        return in_utc(datetime.fromisoformat(text)) if text is not None else None
    except ValueError as error:
        raise Rejected(f"{field} {text!r} is no time; write it as 2026-01-31T12:00:00Z", field=field) from error


def _at(record: Record) -> datetime:
    return datetime.fromisoformat(record["at"])


def actor() -> str:
    """Who is at the keyboard, for the trail."""
    try:
        return f"command:{getpass.getuser()}"
    except (KeyError, OSError):
        return "command"
