"""What the graph reads of a fact: all but its embedding."""

from __future__ import annotations

from datetime import UTC, datetime

from engram_contracts.facts import Chunk, Embedding, Remembered, SparseVector
from engram_contracts.memory import Memory
from engram_graph.draft import FACTS

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def test_a_remembered_memory_is_read_whole_and_its_embedding_not():
    memory = Memory(id="m", content="Joel moved.", tags=("a",), created_at=NOW, updated_at=NOW)
    chunk = Chunk(start=0, end=11, dense=b"\x00\x3c", sparse=SparseVector(indices=(1,), values=(0.5,)))
    fact = Remembered(
        command="c", accepted_at=NOW, at=NOW, actor="key", memory=memory,
        embedding=Embedding(model="x@1", chunks=(chunk,), tokens=3),
    )  # fmt: skip

    read = FACTS["remembered"].model_validate_json(fact.encode())

    assert isinstance(read, Remembered)
    assert read.model_dump(exclude={"embedding"}) == fact.model_dump(exclude={"embedding"})
    assert read.embedding.chunks == ()
