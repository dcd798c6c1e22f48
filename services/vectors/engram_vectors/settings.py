"""What can be set on the vectors service."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr

from engram_contracts.ids import PARTITIONS
from engram_runtime.settings import Common, Section
from engram_vectors.weights import Weights

WEIGHTS = Weights()


def _numbers(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


Partition = Annotated[int, Field(ge=0, lt=PARTITIONS)]


class VectorsSettings(Section):
    """The index and its recall.

    `adapter` is `edge` (in this process) or `server` (Qdrant over gRPC); unset, it is `server` where a Qdrant URL
    is given. `partitions` of the log are followed by this replica (`0,1,2` in the environment). `candidates` is
    how many points each leg brings at least. After `flush_seconds`, or `flush_points` written, the index is brought to
    disk, which stops recalls for 0.1 to 0.3 s; what came since is read from the log again after a crash.
    How often memories were recalled is written down every `access_seconds` (0: never).
    `dense_weight` and `graph_weight` run from 0 to 1; requests may set their own.
    """

    adapter: Literal["edge", "server"] | None = None
    partitions: Annotated[tuple[Partition, ...], BeforeValidator(_numbers)] = tuple(range(PARTITIONS))
    candidates: int = Field(default=120, ge=1, le=1_000)
    flush_seconds: float = Field(default=20.0, gt=0)
    flush_points: int = Field(default=10_000, ge=1)
    access_seconds: float = Field(default=30.0, ge=0)
    dense_weight: float = Field(default=WEIGHTS.dense, ge=0, le=1)
    graph_weight: float = Field(default=WEIGHTS.graph, ge=0, le=1)

    @property
    def weights(self) -> Weights:
        """The weights of the legs."""
        return Weights(dense=self.dense_weight, graph=self.graph_weight)


class QdrantSettings(Section):
    """Where the Qdrant server is; `url` is its REST address, whose host also serves gRPC on `grpc_port`."""

    url: str | None = None
    grpc_port: int = 6334
    api_key: SecretStr | None = None


class Settings(Common):
    """Settings of the vectors service."""

    vectors: VectorsSettings = VectorsSettings()
    qdrant: QdrantSettings = QdrantSettings()

    @property
    def adapter(self) -> Literal["edge", "server"]:
        """The index to use."""
        return self.vectors.adapter or ("server" if self.qdrant.url else "edge")
