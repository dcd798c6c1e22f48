"""Every embedding model does what the port says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from engram_embedder.model_fastembed import FastembedModel
from engram_embedder.model_openai import OpenAIModel
from engram_embedder.model_static import StaticModel
from engram_embedder.ports import EmbeddingModel
from support.fake_embeddings import fake_embeddings
from support.tiny_onnx import write_model


@contextlib.asynccontextmanager
async def opened(kind: str, folder: Path) -> AsyncIterator[EmbeddingModel]:
    async with contextlib.AsyncExitStack() as stack:
        model: EmbeddingModel
        if kind == "static":
            model = StaticModel()
        elif kind == "fastembed":
            model = await FastembedModel.open(path=write_model(folder / "tiny"), cache_dir=folder)
        else:
            fake = await stack.enter_async_context(fake_embeddings())
            model = await OpenAIModel.open(fake.url, "fake-small")
        stack.push_async_callback(model.close)
        yield model


@pytest.fixture(params=["static", "fastembed", "openai"], scope="module")
async def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[EmbeddingModel]:
    async with opened(request.param, tmp_path_factory.mktemp("model")) as model:
        yield model


def test_the_name_says_adapter_and_model(model: EmbeddingModel) -> None:
    adapter, _, name = model.name.partition("/")

    assert adapter in {"static", "fastembed", "openai"}
    assert name


async def test_vectors_are_float32_rows_of_length_one(model: EmbeddingModel) -> None:
    vectors, tokens = await model.embed(["the cat sat on the mat", "stock market fell"])

    assert vectors.dtype == np.float32
    assert vectors.shape == (2, model.dimension)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert len(tokens) == 2
    assert tokens[0] > tokens[1] > 0


async def test_the_order_of_texts_is_the_order_of_vectors(model: EmbeddingModel) -> None:
    texts = ["the cat sat", "the dog ran in the park", "two percent"]

    together = (await model.embed(texts)).vectors
    apart = np.vstack([(await model.embed([text])).vectors for text in texts])

    assert np.allclose(together, apart, atol=1e-4)


async def test_like_texts_lie_closer_than_unlike(model: EmbeddingModel) -> None:
    cat, mat, stock = (
        await model.embed(["the cat sat on the mat", "the cat ran on the mat", "stock market fell by two percent"])
    ).vectors

    assert cat @ mat > cat @ stock + 0.1


@pytest.mark.parametrize("text", [" ", "\x00", "<pad></s>[PAD]", "🎉🎉", "日本語", "تجربة", "\u200b", "x" * 10_000])
async def test_odd_texts_get_a_finite_vector(model: EmbeddingModel, text: str) -> None:
    vectors, _ = await model.embed([text])

    assert np.isfinite(vectors).all()


async def test_a_full_batch_is_taken(model: EmbeddingModel) -> None:
    vectors, _ = await model.embed(["the cat sat"] * model.batch_size)

    assert len(vectors) == model.batch_size


async def test_calls_at_the_same_time_get_their_own_vectors(model: EmbeddingModel) -> None:
    texts = ["cat", "dog", "park", "market"]
    alone = [(await model.embed([text])).vectors for text in texts]

    together = await asyncio.gather(*(model.embed([text]) for text in texts))

    assert all(np.allclose(a, b.vectors, atol=1e-5) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("kind", ["static", "fastembed", "openai"])
async def test_closing_twice_does_nothing(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as model:
        await model.close()
