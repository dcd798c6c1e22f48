"""Static embeddings by wordllama: word vectors that lie in the wheel, averaged. No download, no key."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import wordllama  # type: ignore[import-untyped]  # it has no py.typed

from engram_contracts.errors import Rejected
from engram_embedder.ports import Embedded, normalised
from engram_embedder.tokens import Tokens

DIMENSIONS = (64, 128, 256)
"""The weights are trained so that a vector may be cut short; 256 is all of it."""


class StaticModel:
    """wordllama's 256-dimensional vectors, or their first `dimension` numbers.

    Embeds where it is called: a batch is done in 2 ms, and handing it to a thread costs more than it frees.
    Importing this module takes 0.7 s, loading 0.1 s. Raises `Rejected` for a dimension it does not have.
    """

    batch_size = 64
    batch_characters = 4_000
    concurrency = 1

    def __init__(self, dimension: int = 256) -> None:
        if dimension not in DIMENSIONS:
            raise Rejected(f"the static embedder has dimensions {DIMENSIONS}, not {dimension}", field="dimension")
        # On by default, it costs a fifth more CPU for texts this short; read by the tokenizer at its first use.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        # Its default looks for the tokenizer in a folder that is not there, and downloads it.
        folder = Path(wordllama.__file__).parent
        loaded = wordllama.WordLlama.load(cache_dir=folder, disable_download=True)
        self.name = f"static/wordllama-{dimension}"
        self.dimension = dimension
        self._weights = np.ascontiguousarray(loaded.embedding[:, :dimension])
        loaded.tokenizer.no_padding()
        self._tokens = Tokens(loaded.tokenizer)

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """See `EmbeddingModel.embed`."""
        ids = [self._tokens.of(text) for text in texts]
        sums = np.empty((len(ids), self.dimension), np.float32)
        for row, tokens in enumerate(ids):
            # clip: some special tokens lie beyond the weights
            np.add.reduce(self._weights.take(tokens, axis=0, mode="clip"), axis=0, out=sums[row])
        return Embedded(normalised(sums), [len(tokens) for tokens in ids])

    async def close(self) -> None:
        """Nothing to let go of."""
