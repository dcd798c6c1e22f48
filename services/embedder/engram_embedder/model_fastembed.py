"""ONNX embeddings by fastembed: any of its models, downloaded once, or a model in a local directory."""

from __future__ import annotations

import asyncio
import json
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType
from huggingface_hub import HfApi
from loguru import logger as fastembed_log
from onnxruntime import InferenceSession  # type: ignore[import-untyped]  # it has no py.typed

from engram_contracts.errors import Rejected, Unavailable
from engram_embedder.ports import Embedded, normalised

log = logging.getLogger(__name__)

DEFAULT = "sentence-transformers/all-MiniLM-L6-v2"
PATIENCE = 5.0
"""Seconds to find out whether a download can begin; fastembed's own retries hold on for most of a minute."""

WAY_OUT = (
    "connect this machine to the network once, or put the model's files into a directory and set "
    "ENGRAM_EMBEDDER_PATH to it, or use ENGRAM_EMBEDDER=static, which needs no download"
)


class FastembedModel:
    """A model run by onnxruntime on one thread. Open with `FastembedModel.open`.

    Batches are small: a larger one gains a tenth in speed, and a query would wait behind it.
    """

    batch_size = 8
    batch_characters = 4_000
    concurrency = 1

    def __init__(self, name: str, model: TextEmbedding, thread: ThreadPoolExecutor) -> None:
        self.name = f"fastembed/{name}"
        self.dimension = 0
        self._model = model
        self._thread = thread

    @classmethod
    async def open(
        cls, model: str | None = None, *, path: Path | None = None, cache_dir: Path, dimension: int | None = None
    ) -> FastembedModel:
        """A model ready for use: of fastembed's list by name, or from `path`, named `model` or as its directory.

        Raises `Rejected` for a name or directory that holds no model, or one of another `dimension`, and
        `Unavailable` within seconds when the model would have to be downloaded and cannot be.
        """
        fastembed_log.disable("fastembed")  # it reports every model that is not cached as an error
        thread = ThreadPoolExecutor(1, thread_name_prefix="fastembed")
        load = _from_path if path else _from_list
        try:
            name, loaded = await asyncio.get_running_loop().run_in_executor(thread, load, model, path or cache_dir)
            opened = cls(name, loaded, thread)
            opened.dimension = (await opened.embed(["dimension"])).vectors.shape[1]
            if dimension not in {None, opened.dimension}:
                raise Rejected(f"{opened.name} has {opened.dimension} dimensions, not {dimension}", field="dimension")
        except BaseException:
            thread.shutdown(wait=False)
            raise
        return opened

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """See `EmbeddingModel.embed`. Texts longer than the model reads are cut off by it."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._embed, list(texts))

    async def close(self) -> None:
        """End the model's thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _embed(self, texts: list[str]) -> Embedded:
        vectors = np.array(list(self._model.embed(texts, batch_size=self.batch_size)), np.float32)
        return Embedded(normalised(vectors), [self._model.token_count(text) for text in texts])


def _from_list(model: str | None, cache_dir: Path) -> tuple[str, TextEmbedding]:
    name = model or DEFAULT
    known = {entry["model"].lower(): entry for entry in TextEmbedding.list_supported_models()}
    if name.lower() not in known:
        raise Rejected(f"fastembed has no model {name!r}; name one of its list, for example {DEFAULT!r}", field="model")
    entry = known[name.lower()]
    try:
        return entry["model"], TextEmbedding(name, cache_dir=str(cache_dir), threads=1, local_files_only=True)
    except ValueError:
        _reach(name, entry["sources"]["hf"])
    log.info("downloading", extra={"model": name, "gigabytes": entry["size_in_GB"]})
    try:
        return entry["model"], TextEmbedding(name, cache_dir=str(cache_dir), threads=1)
    except (ValueError, OSError) as error:
        raise Unavailable(f"model {name!r} could not be downloaded: {str(error)[:200]}; {WAY_OUT}") from error


def _reach(name: str, repository: str) -> None:
    """Return when the model's repository answers. Raises `Unavailable` when it does not within seconds."""
    trouble = trouble_within(PATIENCE, lambda: HfApi().model_info(repository, timeout=PATIENCE))
    if trouble is not None:
        raise Unavailable(
            f"model {name!r} is not on this machine and cannot be downloaded ({type(trouble).__name__}); {WAY_OUT}"
        ) from trouble


def trouble_within(seconds: float, call: Callable[[], object]) -> Exception | None:
    """What the call raised, or that it took too long. It is left behind then: a name lookup cannot be cancelled."""
    answer: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            call()
        except Exception as error:
            answer.put(error)
        else:
            answer.put(None)

    threading.Thread(target=run, daemon=True).start()
    try:
        return answer.get(timeout=seconds)
    except queue.Empty:
        return TimeoutError(f"no answer within {seconds:g} s")


def _from_path(model: str | None, path: Path) -> tuple[str, TextEmbedding]:
    folder = path.expanduser().resolve()
    file = _onnx_file(folder)
    registered = f"{folder}:{file}"
    try:
        if registered.lower() not in {entry["model"].lower() for entry in TextEmbedding.list_supported_models()}:
            _register(registered, folder, file)
        loaded = TextEmbedding(registered, specific_model_path=str(folder), threads=1)
    except Exception as error:  # onnxruntime and tokenizers raise types of their own
        raise Rejected(f"{str(folder)!r} holds no usable model: {str(error)[:200]}", field="path") from error
    return model or folder.name, loaded


def _onnx_file(folder: Path) -> str:
    """The model's file inside a directory, as fastembed wants it named."""
    found = sorted(folder.rglob("*.onnx"), key=lambda file: (file.name != "model.onnx", len(file.parts), file.name))
    if not found or not (folder / "tokenizer.json").exists():
        raise Rejected(
            f"{str(folder)!r} holds no model: it needs an .onnx file, tokenizer.json and tokenizer_config.json",
            field="path",
        )
    return str(found[0].relative_to(folder))


def _register(name: str, folder: Path, file: str) -> None:
    shape = InferenceSession(str(folder / file), providers=["CPUExecutionProvider"]).get_outputs()[0].shape
    if len(shape) == 2:
        pooling = PoolingType.DISABLED
    else:
        pooling = PoolingType.CLS if _says_cls(folder / "1_Pooling" / "config.json") else PoolingType.MEAN
    TextEmbedding.add_custom_model(
        name,
        pooling=pooling,
        normalization=False,
        sources=ModelSource(url="file:"),  # never used: the files are there
        dim=1,  # never used: the first vector tells
        model_file=file,
    )


def _says_cls(config: Path) -> bool:
    """Whether a sentence-transformers pooling file asks for the first token's vector instead of the mean."""
    if not config.exists():
        return False
    answer: dict[str, Any] = json.loads(config.read_text())
    return bool(answer.get("pooling_mode_cls_token"))
