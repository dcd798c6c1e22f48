"""A tiny ONNX model in a directory, written byte by byte: token vectors by a Gather, for fastembed to average.

Protocol Buffers' wire format is a key (field number and wire type), then a varint or length and bytes; the field
numbers are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

FLOAT, INT64 = 1, 7
WORDS = (
    "[PAD]", "[UNK]", "the", "cat", "sat", "on", "mat", "dog", "ran", "in", "park",
    "stock", "market", "fell", "by", "two", "percent",
)  # fmt: skip


def write_model(folder: Path, *, dimension: int = 16, pooled: bool = False) -> Path:
    """A model of `dimension` numbers a token; `pooled` adds the mean over tokens to the graph."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = np.random.default_rng(7).standard_normal((len(WORDS), dimension)).astype("<f4")
    (folder / "model.onnx").write_bytes(_model(weights, pooled=pooled))
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"model_max_length": 64, "pad_token": "[PAD]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"pad_token_id": 0}))
    return folder


def _model(weights: np.ndarray, *, pooled: bool) -> bytes:
    nodes = [_node("Gather", ["weights", "input_ids"], "tokens")]
    output, shape = "tokens", ["batch", "length", weights.shape[1]]
    if pooled:
        nodes.append(_node("ReduceMean", ["tokens"], "mean", _ints("axes", [1]), _int("keepdims", 0)))
        output, shape = "mean", ["batch", weights.shape[1]]
    graph = b"".join(
        (
            *(_field(1, node) for node in nodes),
            _text(2, "tiny"),
            _field(5, _tensor("weights", weights)),
            _field(11, _value("input_ids", INT64, ["batch", "length"])),
            _field(11, _value("attention_mask", INT64, ["batch", "length"])),
            _field(12, _value(output, FLOAT, shape)),
        )
    )
    opset = _text(1, "") + _number(2, 13)
    return _number(1, 8) + _field(7, graph) + _field(8, opset)


def _node(operator: str, inputs: Iterable[str], output: str, *attributes: bytes) -> bytes:
    named = b"".join(_text(1, name) for name in inputs)
    return named + _text(2, output) + _text(4, operator) + b"".join(_field(5, a) for a in attributes)


def _ints(name: str, values: Iterable[int]) -> bytes:
    return _text(1, name) + b"".join(_number(8, value) for value in values) + _number(20, 7)


def _int(name: str, value: int) -> bytes:
    return _text(1, name) + _number(3, value) + _number(20, 2)


def _tensor(name: str, array: np.ndarray) -> bytes:
    dims = b"".join(_number(1, size) for size in array.shape)
    return dims + _number(2, FLOAT) + _text(8, name) + _field(9, array.tobytes())


def _value(name: str, kind: int, shape: Iterable[str | int]) -> bytes:
    sizes = (_number(1, size) if isinstance(size, int) else _text(2, size) for size in shape)
    tensor = _number(1, kind) + _field(2, b"".join(_field(1, size) for size in sizes))
    return _text(1, name) + _field(2, _field(1, tensor))


def _text(number: int, text: str) -> bytes:
    return _field(number, text.encode())


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
