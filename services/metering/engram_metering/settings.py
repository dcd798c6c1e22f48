"""What can be set about metering."""

from __future__ import annotations

from pydantic import Field

from engram_runtime.settings import Common, Section


class MeteringSettings(Section):
    """How the ledger runs. `memory_mb` bounds what DuckDB may hold in memory.

    Every `reconcile_hours` it is compared with the streams it was counted from; 0 leaves that to the command.
    """

    memory_mb: int = Field(default=128, ge=64)
    reconcile_hours: float = Field(default=24.0, ge=0)


class Settings(Common):
    """All settings of the metering service."""

    metering: MeteringSettings = MeteringSettings()
