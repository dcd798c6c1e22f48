"""The fastembed adapter: local directories, and models that would have to be downloaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from engram_contracts.errors import Rejected
from engram_embedder.model_fastembed import FastembedModel, trouble_within
from support.servers import free_port
from support.tiny_onnx import write_model

TEXTS = ["the cat sat", "dog in the park ran by"]


async def vectors_of(folder: Path, *, dimension: int | None = None) -> np.ndarray:
    model = await FastembedModel.open(path=folder, cache_dir=folder, dimension=dimension)
    try:
        return (await model.embed(TEXTS)).vectors
    finally:
        await model.close()


async def test_a_directory_lends_its_name_to_the_model(tmp_path: Path) -> None:
    model = await FastembedModel.open(path=write_model(tmp_path / "tiny-en"), cache_dir=tmp_path)

    await model.close()
    assert (model.name, model.dimension) == ("fastembed/tiny-en", 16)


async def test_a_given_name_goes_before_the_directorys(tmp_path: Path) -> None:
    model = await FastembedModel.open("acme/tiny", path=write_model(tmp_path / "x"), cache_dir=tmp_path)

    await model.close()
    assert model.name == "fastembed/acme/tiny"


async def test_token_vectors_are_averaged_unless_the_directory_asks_for_the_first(tmp_path: Path) -> None:
    averaged, first = write_model(tmp_path / "mean"), write_model(tmp_path / "cls")
    (first / "1_Pooling").mkdir()
    (first / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))

    assert not np.allclose(await vectors_of(averaged), await vectors_of(first))


async def test_a_graph_that_averages_by_itself_gives_the_same_vector(tmp_path: Path) -> None:
    pooled = write_model(tmp_path / "pooled", pooled=True)
    plain = write_model(tmp_path / "plain")

    assert np.allclose((await vectors_of(pooled))[1], (await vectors_of(plain))[1], atol=1e-5)


async def test_the_same_directory_can_be_opened_again(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "tiny")

    assert np.allclose(await vectors_of(folder), await vectors_of(folder))


async def test_an_expected_dimension_is_checked(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="16 dimensions, not 384"):
        await vectors_of(write_model(tmp_path / "tiny"), dimension=384)


async def test_an_empty_directory_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match=r"holds no model.*tokenizer\.json"):
        await vectors_of(tmp_path)


async def test_a_broken_model_file_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "tiny")
    (folder / "model.onnx").write_bytes(b"not a model")

    with pytest.raises(Rejected, match="holds no usable model"):
        await vectors_of(folder)


async def test_a_name_that_fastembed_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="'acme/none'"):
        await FastembedModel.open("acme/none", cache_dir=tmp_path)


def test_a_model_that_cannot_be_downloaded_fails_in_seconds_and_says_what_to_do(tmp_path: Path) -> None:
    program = (
        "import asyncio, pathlib, time\n"
        "from engram_contracts.errors import Unavailable\n"
        "from engram_embedder.model_fastembed import FastembedModel\n"
        "started = time.monotonic()\n"
        "try: asyncio.run(FastembedModel.open(cache_dir=pathlib.Path('models')))\n"
        "except Unavailable as error: print(round(time.monotonic() - started, 2), error.message)\n"
    )
    environment = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{free_port()}"}

    done = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )

    seconds, _, message = done.stdout.partition(" ")
    assert float(seconds) < 8, done.stderr
    assert "sentence-transformers/all-MiniLM-L6-v2" in message
    assert "ENGRAM_EMBEDDER_PATH" in message
    assert "ENGRAM_EMBEDDER=static" in message
    assert len(message) < 500
    assert done.stderr == ""


def test_a_call_that_hangs_is_left_behind() -> None:
    release = threading.Event()

    started = time.monotonic()
    trouble = trouble_within(0.05, release.wait)
    release.set()

    assert isinstance(trouble, TimeoutError)
    assert time.monotonic() - started < 2
