"""What the embedder needs from outside: a model that turns texts into vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
"""One row per text, each of length 1."""


class Embedded(NamedTuple):
    """The vectors of some texts, and how many tokens the model read in each (an estimate where it does not say)."""

    vectors: Vectors
    tokens: Sequence[int]


class EmbeddingModel(Protocol):
    """A model of dense embeddings.

    `name` (for example `static/wordllama-256`) and `dimension` are what stored vectors are compared by. A call
    takes at most `batch_size` texts with `batch_characters` characters in all (one longer text counts as a batch),
    and at most `concurrency` calls run at a time: more would make a query wait too long, or gain nothing.
    """

    name: str
    dimension: int
    batch_size: int
    batch_characters: int
    concurrency: int

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """The vectors of the texts, in order.

        Raises `Rejected` when the model will never take one of them, `Unavailable` when it may later.
        """

    async def close(self) -> None:
        """Let go of what the model holds. A repeat does nothing."""


def normalised(rows: Vectors) -> Vectors:
    """The rows at length 1; a row of zeros stays as it is."""
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    lengths[lengths == 0] = 1
    unit: Vectors = (rows / lengths[:, np.newaxis]).astype(np.float32)
    return unit
