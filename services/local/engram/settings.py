"""Everything that can be set on one machine: the sections of all services in one model."""

from __future__ import annotations

from pydantic import ConfigDict

from engram_api.settings import Settings as ApiSettings
from engram_embedder.settings import Settings as EmbedderSettings
from engram_graph.settings import Settings as GraphSettings
from engram_metering.settings import Settings as MeteringSettings
from engram_reasoner.settings import Settings as ReasonerSettings
from engram_recovery.settings import Settings as RecoverySettings
from engram_vectors.settings import Settings as VectorsSettings


class Settings(
    ApiSettings,
    EmbedderSettings,
    GraphSettings,
    MeteringSettings,
    ReasonerSettings,
    RecoverySettings,
    VectorsSettings,
):
    """All sections; here, and only here, a section nobody knows is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def nats_is_external(self) -> bool:
        """Whether a broker was named, so that none is to be started."""
        return "url" in self.nats.model_fields_set
