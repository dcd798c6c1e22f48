"""From texts to embeddings: cut, embed in slices, weigh terms, and let a query go first."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from engram_contracts.errors import EngramError, Rejected
from engram_contracts.facts import Chunk, Embedding, SparseVector
from engram_contracts.questions import Check, QueryVectors
from engram_embedder.chunking import Span, spans
from engram_embedder.gate import Gate, Urgency
from engram_embedder.ports import EmbeddingModel, Vectors
from engram_embedder.sparse import SparseEncoder
from engram_runtime.tracing import step

ROUNDS_TO_LINE_UP = 4
"""Turns of the event loop from bytes on the socket to a query at the gate: transport, reader, subscription, handler."""


class Searchable(NamedTuple):
    """What of a memory can be searched: the dense vector is of the content alone, the sparse one of all three."""

    content: str
    speaker: str | None = None
    occurred_at: datetime | None = None
    language: str | None = None
    """Whose stems its words are counted as, where it is not the installation's."""


class _Piece(NamedTuple):
    """One span of one document."""

    document: int
    span: Span
    text: str


class _Read(NamedTuple):
    """A text as the model read it."""

    dense: bytes
    tokens: int


class Embedder:
    """A model and a sparse encoder at work, a slice at a time, the most urgent first."""

    def __init__(self, model: EmbeddingModel, sparse: SparseEncoder) -> None:
        self._model = model
        self._sparse = sparse
        self._gate = Gate(model.concurrency)
        self._label = f"{model.name}@{model.dimension}"
        self._trouble: EngramError | None = None

    async def query(self, text: str, dense_text: str | None = None, language: str | None = None) -> QueryVectors:
        """A query's vectors, the dense one of `dense_text` where there is one. Raises as the model does.

        It waits for one slice of other work at most.
        """
        sparse = self._sparse.query(text, language)
        async with self._gate.turn(Urgency.QUERY):
            read = await self._read([dense_text or text])
        return QueryVectors(model=self._label, dense=read[0].dense, sparse=sparse)

    async def documents(self, documents: Sequence[Searchable], urgency: Urgency) -> list[Embedding | Rejected]:
        """One embedding per document, or why the model will never take it. Raises when the model is away."""
        pieces = [
            _Piece(n, span, document.content[span.start : span.end])
            for n, document in enumerate(documents)
            for span in spans(document.content)
        ]
        drafts = [_Draft() for _ in documents]
        for part in _slices(pieces, self._model.batch_size, self._model.batch_characters):
            async with self._gate.turn(urgency):
                reads = await self._read_apart([piece.text for piece in part])
                for piece, read in zip(part, reads, strict=True):
                    drafts[piece.document].add(piece, read, self._weigh(piece, documents))
                await _let_queries_line_up()
        return [draft.finished(self._label) for draft in drafts]

    async def check(self) -> Check:
        """Whether the model works: after a failure it is tried again, else the last call counts."""
        if self._trouble is not None:
            with contextlib.suppress(EngramError):
                await self._read(["check"])
        return Check(ok=self._trouble is None, detail=self._trouble.message if self._trouble else None)

    def _weigh(self, piece: _Piece, documents: Sequence[Searchable]) -> SparseVector:
        _, speaker, occurred_at, language = documents[piece.document]
        return self._sparse.document(piece.text, speaker=speaker, occurred_at=occurred_at, language=language)

    async def _read_apart(self, texts: Sequence[str]) -> list[_Read | Rejected]:
        """What the model reads, text by text; where it refuses several at once, the one at fault is searched for."""
        try:
            return [*await self._read(texts)]
        except Rejected as error:
            if len(texts) == 1:
                return [error]
        half = len(texts) // 2
        return [*await self._read_apart(texts[:half]), *await self._read_apart(texts[half:])]

    async def _read(self, texts: Sequence[str]) -> list[_Read]:
        about = {"gen_ai.operation.name": "embeddings", "gen_ai.request.model": self._model.name}
        try:
            with step(f"embeddings {self._model.name}", "client", about):
                vectors, tokens = await self._model.embed(texts)
        except EngramError as error:
            self._trouble = None if isinstance(error, Rejected) else error
            raise
        self._trouble = None
        return [_Read(dense, count) for dense, count in zip(_half_floats(vectors), tokens, strict=True)]


class _Draft:
    """A document's embedding as it grows."""

    def __init__(self) -> None:
        self._chunks: list[Chunk] = []
        self._tokens = 0
        self._refused: Rejected | None = None

    def add(self, piece: _Piece, read: _Read | Rejected, sparse: SparseVector) -> None:
        if isinstance(read, Rejected):
            self._refused = read
            return
        self._tokens += read.tokens
        start, end = piece.span
        self._chunks.append(Chunk.trusted({"start": start, "end": end, "dense": read.dense, "sparse": sparse}))

    def finished(self, label: str) -> Embedding | Rejected:
        return self._refused or Embedding.trusted(
            {"model": label, "chunks": tuple(self._chunks), "tokens": self._tokens}
        )


def _slices(pieces: Sequence[_Piece], most: int, characters: int) -> Iterator[Sequence[_Piece]]:
    """The pieces in groups of at most `most`, and of at most so many characters unless it is one piece alone."""
    start = size = 0
    for n, piece in enumerate(pieces):
        size += len(piece.text)
        if n > start and (n - start == most or size > characters):
            yield pieces[start:n]
            start, size = n, len(piece.text)
    if pieces:
        yield pieces[start:]


def _half_floats(vectors: Vectors) -> Iterator[bytes]:
    """Each row as little-endian half floats."""
    return (row.tobytes() for row in vectors.astype("<f2"))


async def _let_queries_line_up() -> None:
    for _ in range(ROUNDS_TO_LINE_UP):
        await asyncio.sleep(0)
