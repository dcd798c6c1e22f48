"""Recall: asks embedder and graph at once, searches, fuses, hydrates. Whatever is away is named, never fatal."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from time import perf_counter
from typing import Any, TypeVar

from engram_contracts.control import TenantRecord
from engram_contracts.errors import EngramError, Unavailable
from engram_contracts.questions import (
    Activate,
    EmbedQuery,
    Mode,
    QueryVectors,
    Recall,
    RecallWeights,
    Walk,
)
from engram_runtime.bus import Bus
from engram_vectors.filters import Wanted, microseconds, wanted
from engram_vectors.folding import folded
from engram_vectors.likeness import is_like, rare_words
from engram_vectors.looks import fingerprint
from engram_vectors.points import Entry, PointId, first_of, head_of
from engram_vectors.ports import Candidates, Probe, VectorIndex
from engram_vectors.question import in_first_person, names_in, times_in
from engram_vectors.ranking import LENT, Hints, Ranked, rank
from engram_vectors.recent import Lately
from engram_vectors.speakers import Speakers
from engram_vectors.told import Told, first_to_expire, hit_of
from engram_vectors.variety import varied
from engram_vectors.weights import Weights

T = TypeVar("T")

SHARE = 0.25
"""Of the deadline, for the embedder and for the graph, which are asked at the same time; the index has the rest."""
MOST_ACTIVATED = 500
WITH_NEIGHBOURS = 32
"""So many of the best candidates have turns brought that stand beside them."""
SEEDS, SEEDING_POWER, SEEDING_DENSE = 20, 8, 0.2
"""From how many memories a walk starts, with which power of their score as mass, and how they are scored for it."""
LEAST_TO_HOP = 6
"""Words of a question that may take several hops."""
QUERIES_REMEMBERED = 1_000
"""So many queries' vectors are kept, some 3 KB each."""
CONSIDERED = 4
"""Where variety is asked for, so many times the limit are looked at."""
LEGS = 4
"""Dense, sparse, graph, and neighbours."""
BROWSING = {"recency": 1.0}
PLAIN = {"neighbours": 0.0, "speaker": 0.0, "statement": 0.0, "first_person": False}


@dataclass(frozen=True, slots=True)
class Activation:
    """What the graph brought, by first point: how strongly, and along which nodes."""

    strength: dict[PointId, float] = field(default_factory=dict)
    paths: dict[PointId, tuple[str, ...]] = field(default_factory=dict)


class Attempt:
    """One recall under way: what it wants, what went missing, and where the time went."""

    def __init__(self, question: Recall, weights: Weights, *, now: datetime, candidates: int) -> None:
        self.question = question
        self.weights = weights
        self.wanted: Wanted = wanted(question.tenant, question.filters, now=now)
        self.candidates = max(candidates, 4 * question.limit)
        self.deadline = question.deadline_ms / 1_000
        self.hints = Hints(now=microseconds(question.as_of or now), words=fingerprint(question.query))
        self.as_of = question.as_of or now
        self.language: str | None = None
        """Whose stems the query's words are counted as, where it is not the installation's."""
        self.lost = False
        """Whether there is no text leg, so that the graph has to answer alone."""
        self.degraded: list[str] = []
        self.stages_ms: dict[str, float] = {}
        self._began = perf_counter()

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return perf_counter() - self._began

    @property
    def mode(self) -> Mode:
        """The way it goes."""
        if self.question.mode != "auto":
            return self.question.mode
        return "multi-hop" if self.hints.walked else "dialogue" if self.hints.speakers else "lookup"

    @property
    def considered(self) -> int:
        """How many results are looked at: all there are where some may be left out for their texts."""
        if self.question.min_similarity or self.question.fold == "near":
            return LEGS * self.candidates
        return self.question.limit * (CONSIDERED if self.weights.diversity else 1)

    def may_hop(self, found: Candidates) -> bool:
        """Whether to walk: asked to, or a longer question about names, among memories that nobody said."""
        if self.question.mode != "auto" or not found.looks:
            return self.question.mode == "multi-hop" and bool(found.looks)
        query = self.question.query
        if self.hints.speakers or not names_in(query) or len(query.split()) < LEAST_TO_HOP:
            return False
        return sum(not look.speaker for look in found.looks.values()) > len(found.looks) / 2

    async def part(self, name: str, stage: str, doing: Awaitable[T], *, within: float) -> T | None:
        """What a part brings, or `None` and a line in `degraded` when it fails or takes too long."""
        began = perf_counter()
        try:
            async with asyncio.timeout(within):
                return await doing
        except (Unavailable, TimeoutError) as error:
            after = (perf_counter() - began) * 1_000
            self.degraded.append(f"{name}: unavailable after {after:.0f} ms" + (f" ({error})" if str(error) else ""))
        except EngramError as error:
            self.degraded.append(f"{name}: {error.message}")
        finally:
            self.stages_ms[stage] = (perf_counter() - began) * 1_000
        return None

    async def of_index(self, stage: str, doing: Awaitable[T]) -> T | None:
        """As `part`, for a call of the index, in the time that is left."""
        return await self.part("index", stage, doing, within=max(self.deadline - self.elapsed, 0.001))


class Recaller:
    """Answers recalls from an index, with the help of embedder and graph over the bus."""

    def __init__(
        self,
        index: VectorIndex,
        bus: Bus,
        *,
        weights: Weights,
        candidates: int,
        speakers: Speakers | None = None,
        tenant: Callable[[str], TenantRecord | None] = lambda _: None,
    ) -> None:
        self._index = index
        self._bus = bus
        self._weights = weights
        self._candidates = candidates
        self._tenant = tenant
        self._vectors: Lately[tuple[str, str | None, str | None], QueryVectors] = Lately(QUERIES_REMEMBERED)
        self.speakers = speakers or Speakers(index)

    async def recall(self, question: Recall, *, now: datetime) -> Told:
        """The best memories for a query as of `now`."""
        tenant = self._tenant(question.tenant)
        usual = self._weights
        if tenant is not None and tenant.half_life_days is not None:
            usual = replace(usual, half_life_days=tenant.half_life_days)
        weights = weighed(usual, question.mode, question.weights)
        attempt = Attempt(question, weights, now=now, candidates=self._candidates)
        attempt.language = tenant.language if tenant is not None else None
        candidates, activation = await self._legs(attempt)
        candidates = await self._with_neighbours(attempt, candidates)
        strength = await self._allowed(attempt, candidates, activation.strength)
        if attempt.may_hop(candidates):
            activation = await self._walk(attempt, candidates) or activation
        ranked = self._rank(attempt, candidates, strength, attempt.considered)
        return await self._tell(attempt, ranked, activation)

    async def _legs(self, attempt: Attempt) -> tuple[Candidates, Activation]:
        """The text legs and the graph's, at the same time where the graph counts anyway."""
        if attempt.weights.graph:
            return await asyncio.gather(self._search(attempt), self._activate(attempt))
        candidates = await self._search(attempt)
        return candidates, await self._activate(attempt) if attempt.lost else Activation()

    def _rank(self, attempt: Attempt, found: Candidates, strength: Mapping[PointId, float], limit: int) -> list[Ranked]:
        began = perf_counter()
        explain = attempt.question.explain
        fold = attempt.question.fold != "none"
        ranked = rank(found, strength, attempt.weights, limit, attempt.hints, with_ranks=explain, fold=fold)
        attempt.stages_ms["rank"] = (perf_counter() - began) * 1_000
        return [each for each in ranked if each.score >= attempt.question.min_score]

    async def _search(self, attempt: Attempt) -> Candidates:
        """Both text legs; without the embedder there is neither."""
        within = attempt.deadline * SHARE
        await self._understand(attempt)
        query = attempt.question.query
        in_person = in_first_person(query, attempt.hints.speakers) if attempt.weights.first_person else None
        asked = self._embedded(query, in_person, attempt.language, within)
        vectors = await attempt.part("embedder", "embed", asked, within=within + 0.05)
        if vectors is None:
            attempt.lost = True
            return Candidates()
        probe = Probe(dense=self._dense(attempt, vectors), sparse=vectors.sparse, limit=attempt.candidates)
        found = await attempt.of_index("search", self._index.search(attempt.wanted, probe))
        return found or Candidates()

    async def _embedded(self, query: str, in_person: str | None, language: str | None, within: float) -> QueryVectors:
        """The query's vectors; those of a query that was asked lately are still known."""
        known = self._vectors.get((query, in_person, language))
        if known is None:
            asked = EmbedQuery(text=query, dense_text=in_person, language=language)
            known = await self._bus.ask(asked, within=within)
            self._vectors.put((query, in_person, language), known)
        return known

    async def _understand(self, attempt: Attempt) -> None:
        """Whom the query names, and which time."""
        query, weights = attempt.question.query, attempt.weights
        times = times_in(query, attempt.as_of) if weights.date else []
        stretches = tuple((microseconds(each.start), microseconds(each.end)) for each in times)
        speakers: frozenset[str] | None = None
        names = names_in(query) if weights.speaker or weights.first_person else []
        if names:
            asked = self.speakers.among(attempt.question.tenant, names)
            speakers = await attempt.of_index("understand", asked)
        attempt.hints = replace(attempt.hints, times=stretches, speakers=speakers or frozenset())

    def _dense(self, attempt: Attempt, vectors: QueryVectors) -> tuple[float, ...] | None:
        if self._index.model in (None, vectors.model):
            return struct.unpack(f"<{len(vectors.dense) // 2}e", vectors.dense)
        attempt.degraded.append(
            f"embedder: works with {vectors.model!r}, but the index holds vectors of {self._index.model!r}; "
            "searched by words alone"
        )
        return None

    async def _activate(self, attempt: Attempt) -> Activation:
        """The graph's leg."""
        question, within = attempt.question, attempt.deadline * SHARE
        limit = min(attempt.candidates, MOST_ACTIVATED)
        asked = self._bus.ask(Activate(tenant=question.tenant, text=question.query, limit=limit), within=within)
        activated = await attempt.part("graph", "graph", asked, within=within + 0.05)
        if activated is None:
            return Activation()
        heads = [head_of(question.tenant, memory_id) for memory_id in activated.memory_ids]
        strength = dict(zip(heads, activated.activations, strict=False))
        return Activation(strength, dict(zip(heads, activated.paths, strict=False)))

    async def _walk(self, attempt: Attempt, found: Candidates) -> Activation | None:
        """Have the graph walk on from the best candidates; where it leads decides the order."""
        tenant = attempt.question.tenant
        starts = rank(found, {}, replace(attempt.weights, dense=SEEDING_DENSE), SEEDS, attempt.hints, with_ranks=False)
        records = await self._records(attempt, [each.head for each in starts], "starts")
        memories = {head: Entry.model_validate_json(record).memory for head, record in records.items()}
        masses = {
            memory.id: each.score**SEEDING_POWER for each in starts if (memory := memories.get(each.head)) is not None
        }
        question = Walk(
            tenant=tenant, text=attempt.question.query, memory_ids=tuple(masses), masses=tuple(masses.values()),
            limit=attempt.candidates,
        )  # fmt: skip
        within = max(min(attempt.deadline * SHARE, attempt.deadline - attempt.elapsed), 0.001)
        walked = await attempt.part("graph", "walk", self._bus.ask(question, within=within), within=within)
        if walked is None or not walked.seeds:
            return None
        heads = [head_of(tenant, memory_id) for memory_id in walked.memory_ids]
        shares = await self._allowed(attempt, found, dict(zip(heads, walked.shares, strict=False)))
        attempt.hints = replace(attempt.hints, walked=shares)
        return Activation(shares, dict(zip(heads, walked.paths, strict=False)))

    async def _with_neighbours(self, attempt: Attempt, found: Candidates) -> Candidates:
        """With the turns beside the best candidates, which may be good answers without a word of the question."""
        if not attempt.weights.neighbours:
            return found
        places = _beside(found)
        looks = await attempt.of_index("neighbours", self._index.standing(attempt.wanted, places)) if places else None
        return replace(found, looks={**looks, **found.looks}) if looks else found

    async def _allowed(
        self, attempt: Attempt, found: Candidates, strength: dict[PointId, float]
    ) -> dict[PointId, float]:
        """Without memories that the graph alone brought and the filters do not want."""
        passed = {first_of(point) for point, _ in (*found.dense, *found.sparse)}
        alone = [head for head in strength if head not in passed]
        if not alone:
            return strength
        narrowed = await attempt.of_index("narrow", self._index.narrow(attempt.wanted, alone))
        passed |= narrowed or set()
        return {head: each for head, each in strength.items() if head in passed}

    async def _tell(self, attempt: Attempt, ranked: list[Ranked], activation: Activation) -> Told:
        """The answer: the best of what was ranked, as it is kept."""
        question = attempt.question
        records = await self._records(attempt, [head for each in ranked for head in (each.head, *each.same)], "fetch")
        told = [each for each in _worth_telling(attempt, ranked, records)[: question.limit] if each.head in records]
        hits = (hit_of(each, records, activation.paths.get(each.head, ()), explain=question.explain) for each in told)
        return Told(
            hits=tuple(hit for hit in hits if hit is not None),
            degraded=tuple(attempt.degraded),
            took_ms=attempt.elapsed * 1_000,
            stages_ms=attempt.stages_ms if question.explain else None,
            mode=attempt.mode,
            weights=asdict(attempt.weights) if question.explain else None,
            until=first_to_expire(records[each.head] for each in told),
            heads=tuple(each.head for each in told),
        )

    async def _records(self, attempt: Attempt, heads: Sequence[PointId], stage: str) -> dict[PointId, str]:
        return await attempt.of_index(stage, self._index.fetch(attempt.question.tenant, heads)) or {}


def weighed(weights: Weights, mode: Mode, wished: RecallWeights | None) -> Weights:
    """The weights a recall goes by: the service's, those of its mode, and before all what the request wishes."""
    of_mode: Mapping[str, Any] = {"browse": BROWSING, "lookup": PLAIN}.get(mode, {})
    of_request = wished.model_dump(exclude_none=True) if wished else {}
    wishes: dict[str, Any] = {**of_mode, **of_request}
    return replace(weights, **wishes) if wishes else weights


def _beside(found: Candidates) -> list[int]:
    """Places next to the best of each leg where nobody is known to stand."""
    best = dict.fromkeys(
        first_of(point) for pair in zip(found.dense, found.sparse, strict=False) for point, _ in pair
    ) or dict.fromkeys(first_of(point) for point, _ in (*found.dense, *found.sparse))
    looks = [found.looks[head] for head in list(best)[:WITH_NEIGHBOURS] if head in found.looks]
    taken = {look.place for look in found.looks.values()}
    steps = [-step for step, _ in LENT]
    beside = {look.place + step for look in looks if look.place and look.speaker for step in steps}
    return sorted(beside - taken)


def _worth_telling(attempt: Attempt, ranked: list[Ranked], records: Mapping[PointId, str]) -> list[Ranked]:
    """Those like the query, unlike each other, and of a kind only once, as far as the question asks for it."""
    question, diversity = attempt.question, attempt.weights.diversity
    if not (question.min_similarity or question.fold == "near" or diversity):
        return ranked
    texts = _texts(records)
    found = [each for each in ranked if each.head in texts]
    if question.min_similarity:
        rare = rare_words(question.query)
        found = [each for each in found if is_like(each, texts[each.head], question.min_similarity, rare)]
    if question.fold == "near":
        found = folded(found, [texts[each.head] for each in found], question.limit)
    if not diversity:
        return found
    chosen = varied(found, [texts[each.head] for each in found], diversity, question.limit)
    return [each for each in chosen if each.score >= question.min_score]


def _texts(records: Mapping[PointId, str]) -> dict[PointId, str]:
    memories = {head: Entry.model_validate_json(record).memory for head, record in records.items()}
    return {head: memory.content for head, memory in memories.items() if memory is not None}
