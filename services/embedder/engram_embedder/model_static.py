"""Static embeddings by wordllama: word vectors that lie in the wheel, averaged. No download, no key."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from engram_contracts.errors import Rejected
from engram_embedder.ports import Embedded, normalised
from engram_embedder.tokens import Tokens

WEIGHTS = Path("weights", "l2_supercat_256.safetensors")
TOKENIZER = Path("tokenizers", "l2_supercat_tokenizer_config.json")
DIMENSIONS = (64, 128, 256)
"""The weights are trained so that a vector may be cut short; 256 is all of it."""


class StaticModel:
    """wordllama's 256-dimensional vectors, or their first `dimension` numbers.

    Embeds where it is called: a batch is done in 2 ms, and handing it to a thread costs more than it frees.
    The wheel's files are read, its code is not imported: that would cost 40 MB and 0.7 s in every process (it keeps
    the weights in double width). Raises `Rejected` for a dimension it does not have.
    """

    batch_size = 64
    batch_characters = 4_000
    concurrency = 1

    def __init__(self, dimension: int = 256) -> None:
        if dimension not in DIMENSIONS:
            raise Rejected(f"the static embedder has dimensions {DIMENSIONS}, not {dimension}", field="dimension")
        # On by default, it costs a fifth more CPU for texts this short; read by the tokenizer at its first use.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        folder = _folder()
        self.name = f"static/wordllama-{dimension}"
        self.dimension = dimension
        self._weights = _weights(folder / WEIGHTS)[:, :dimension]
        self._tokens = Tokens(Tokenizer.from_file(str(folder / TOKENIZER)))

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """See `EmbeddingModel.embed`."""
        ids = [self._tokens.of(text) for text in texts]
        sums = np.empty((len(ids), self.dimension), np.float32)
        for row, tokens in enumerate(ids):
            # clip: some special tokens lie beyond the weights
            taken = self._weights.take(tokens, axis=0, mode="clip").astype(np.float32)
            np.add.reduce(taken, axis=0, out=sums[row])
        return Embedded(normalised(sums), [len(tokens) for tokens in ids])

    async def close(self) -> None:
        """Nothing to let go of."""


def _folder() -> Path:
    spec = find_spec("wordllama")
    if spec is None or not spec.submodule_search_locations:
        raise Rejected("wordllama is not installed; install it, or choose another adapter", field="adapter")
    return Path(spec.submodule_search_locations[0])


def _weights(file: Path) -> NDArray[np.float16]:
    """The one tensor of a safetensors file, mapped: what is not looked at is not in memory.

    The file is the length of a header (8 bytes, little-endian), the header in JSON, the numbers
    (https://github.com/huggingface/safetensors#format).
    """
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        (tensor,) = json.loads(opened.read(length)).values()
    begin = 8 + length + tensor["data_offsets"][0]
    return np.asarray(np.memmap(file, np.float16, "r", begin, tuple(tensor["shape"])))
