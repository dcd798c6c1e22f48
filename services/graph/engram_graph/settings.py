"""Settings of the graph: which partitions this process owns, and how much memory it may take."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from engram_contracts.ids import PARTITIONS
from engram_runtime.settings import Common, Section

MiB = 1024 * 1024
Partition = Annotated[int, Field(ge=0, lt=PARTITIONS)]


class GraphSettings(Section):
    """`partitions` of the log this process keeps (`0,3,5` in the environment; all by default).

    `memory_limit` bounds DuckDB's buffers per partition, `csr_bytes` the adjacency kept for questions, and
    `known_nodes` the nodes whose names are held ready for extraction, all over all tenants.
    """

    partitions: tuple[Partition, ...] = tuple(range(PARTITIONS))
    memory_limit: str = "256MB"
    csr_bytes: int = Field(default=256 * MiB, ge=0)
    known_nodes: int = Field(default=300_000, ge=0)

    @field_validator("partitions", mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class Settings(Common):
    """What the graph service needs to know."""

    graph: GraphSettings = GraphSettings()
