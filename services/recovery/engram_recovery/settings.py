"""Settings of recovery."""

from __future__ import annotations

from pydantic import Field, SecretStr

from engram_runtime.settings import Common, Section


class RecoverySettings(Section):
    """How the dead letters are looked after.

    `count_seconds` is the pause between two counts for the metrics; `most_looked_at` bounds the dead letters that one
    question looks at. Every `clear_seconds` the work queue is looked through for what was settled and is there again,
    and for what nobody takes, which is dead after `unclaimed_seconds`.
    `signing_secret` is what the key of reports follows from; without it one is made in the data directory.
    """

    count_seconds: float = Field(default=5.0, gt=0)
    clear_seconds: float = Field(default=15.0, gt=0)
    unclaimed_seconds: float = Field(default=60.0, gt=0)
    most_looked_at: int = Field(default=100_000, ge=1_000)
    signing_secret: SecretStr | None = None


class Settings(Common):
    """What a recovery process knows."""

    recovery: RecoverySettings = RecoverySettings()
