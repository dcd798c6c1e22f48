"""A tenant's usage written down as CSV or Parquet, kept for a while, and read piece by piece."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

from engram_contracts.errors import NotFound
from engram_contracts.ids import new_id
from engram_contracts.questions import ExportUsage, ReadUsageExport, UsageExport, UsagePiece
from engram_metering.days import day_range
from engram_metering.ledger_duckdb import DuckLedger

KEPT_SECONDS = 600.0
PIECE = 256 * 1024
_ID = re.compile(r"[0-9a-f-]{36}", re.ASCII)


class Exports:
    """Keeps exports in a folder for ten minutes; what an earlier process left there is cleared as well."""

    def __init__(self, ledger: DuckLedger, folder: Path) -> None:
        self._ledger = ledger
        self._folder = folder

    async def export(self, question: ExportUsage) -> UsageExport:
        """Write an export. Raises `Rejected`, naming the field, for a bad range."""
        first, last = day_range(question.since, question.until)
        identity = new_id()
        file = self._file(question.tenant, identity)
        await asyncio.to_thread(self._clear)
        file.parent.mkdir(parents=True, exist_ok=True)
        await self._ledger.export(question.tenant, first, last, by=question.by, form=question.format, file=file)
        return UsageExport(id=identity, size=file.stat().st_size)

    async def read(self, question: ReadUsageExport) -> UsagePiece:
        """A piece of an export. Raises `NotFound` for one that is not there, or is another tenant's."""
        file = self._file(question.tenant, question.id) if _ID.fullmatch(question.id) else None
        if file is None or not file.exists():
            raise NotFound("there is no such export, or it is older than ten minutes; make another", field="id")
        return UsagePiece(data=await asyncio.to_thread(_piece, file, question.offset))

    def _file(self, tenant: str, identity: str) -> Path:
        return self._folder / tenant / identity

    def _clear(self) -> None:
        for file in self._folder.glob("*/*"):
            if time.time() - file.stat().st_mtime > KEPT_SECONDS:
                file.unlink(missing_ok=True)


def _piece(file: Path, offset: int) -> bytes:
    with file.open("rb") as content:
        content.seek(offset)
        return content.read(PIECE)
