"""What can be set about metering."""

from __future__ import annotations

from pydantic import Field

from engram_runtime.settings import Common, Section


class MeteringSettings(Section):
    """How the ledger runs. `memory_mb` bounds what DuckDB may hold in memory."""

    memory_mb: int = Field(default=128, ge=64)


class Settings(Common):
    """All settings of the metering service."""

    metering: MeteringSettings = MeteringSettings()
