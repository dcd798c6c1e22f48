"""The static model gives what wordllama itself gives, without its code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import wordllama

from engram_embedder.model_static import StaticModel

TEXTS = ["Joel moved from Antwerp to Ghent.", "naïve café 🎉", "东京都 と 大阪府", "a" * 300, "one"]


async def test_vectors_are_those_of_the_library():
    library = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)

    embedded = await StaticModel().embed(TEXTS)

    np.testing.assert_allclose(embedded.vectors, library.embed(TEXTS, norm=True), atol=1e-6)


async def test_a_shorter_vector_is_the_beginning_made_long_as_one():
    whole = (await StaticModel().embed(TEXTS)).vectors[:, :64]

    cut = (await StaticModel(64).embed(TEXTS)).vectors

    np.testing.assert_allclose(cut, whole / np.linalg.norm(whole, axis=1, keepdims=True), atol=1e-6)
