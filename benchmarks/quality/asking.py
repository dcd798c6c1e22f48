"""A dataset put into a running Engram and asked of it, over HTTP alone."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from rich.progress import Progress

from benchmarks.quality.datasets import Corpus, Dataset, Question
from support.system import System

BULK = 200
AT_ONCE = 4
SETTLE_SECONDS = 600.0
TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for a question: labels in order, how long it took, and how far scores were from their parts' sum.

    Each of `found` was checked against its explanation; `apart` is the greatest difference.
    """

    corpus: Corpus
    question: Question
    found: tuple[str, ...]
    ms: float
    apart: float = 0.0


class Unexplained(AssertionError):
    """A score is not the sum of its parts."""


class Asker:
    """Speaks to the door, as each corpus's tenant."""

    def __init__(self, session: aiohttp.ClientSession, keys: Mapping[str, str], dataset: Dataset) -> None:
        self._session = session
        self._keys = keys
        self._dataset = dataset

    async def ingest(self, progress: Progress) -> None:
        """Remember everything, in order, and wait until it is linked."""
        bar = progress.add_task("ingest", total=sum(len(corpus.memories) for corpus in self._dataset.corpora))
        for corpus in self._dataset.corpora:
            for start in range(0, len(corpus.memories), BULK):
                some = corpus.memories[start : start + BULK]
                await self._post(corpus, f"/v1/memories?wait=done&timeout={SETTLE_SECONDS:g}", {"memories": some})
                progress.advance(bar, len(some))

    async def ask(self, name: str, how: Mapping[str, Any], progress: Progress) -> list[Answer]:
        """Every question, asked in this way; every score is checked against its parts."""
        asked = [(corpus, question) for corpus in self._dataset.corpora for question in corpus.questions]
        bar = progress.add_task(name, total=len(asked))
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(corpus: Corpus, question: Question) -> Answer:
            async with gate:
                answer = await self._ask(corpus, question, how)
            progress.advance(bar)
            return answer

        return await asyncio.gather(*(one(*each) for each in asked))

    async def _ask(self, corpus: Corpus, question: Question, how: Mapping[str, Any]) -> Answer:
        body = {"query": question.text, "limit": max(self._dataset.depths), "explain": True, **how}
        began = time.perf_counter()
        hits = (await self._post(corpus, "/v1/recall", body))["data"]["hits"]
        took = 1_000 * (time.perf_counter() - began)
        apart = check(hits)
        found = tuple(hit["memory"]["metadata"][self._dataset.label] for hit in hits)
        return Answer(corpus, question, found, took, apart)

    async def _post(self, corpus: Corpus, path: str, body: Any) -> Any:
        headers = {"Authorization": f"Bearer {self._keys[corpus.tenant]}"}
        async with self._session.post(path, json=body, headers=headers) as answer:
            told = await answer.text()
            if answer.status not in {200, 201} or '"degraded"' in told:
                raise RuntimeError(f"{path} answered {answer.status}: {told[:500]}")
            return json.loads(told)


@asynccontextmanager
async def asker(system: System, dataset: Dataset) -> AsyncIterator[Asker]:
    """Somebody who holds a key of each corpus's tenant."""
    keys = {corpus.tenant: await system.new_key(corpus.tenant) for corpus in dataset.corpora}
    timeout = aiohttp.ClientTimeout(total=SETTLE_SECONDS)
    async with aiohttp.ClientSession(system.url, timeout=timeout) as session:
        yield Asker(session, keys, dataset)


def check(hits: Sequence[Mapping[str, Any]]) -> float:
    """The greatest difference between a score and the sum of its parts.

    Raises `Unexplained` where that is more than `TOLERANCE`, or a score is greater than the one before.
    """
    last, most = float("inf"), 0.0
    for hit in hits:
        apart = abs(sum(hit["explain"]["parts"].values()) - hit["score"])
        if apart > TOLERANCE or hit["score"] > last + TOLERANCE:
            raise Unexplained(f"score {hit['score']} after {last}, parts {hit['explain']['parts']}")
        last, most = hit["score"], max(most, apart)
    return most
