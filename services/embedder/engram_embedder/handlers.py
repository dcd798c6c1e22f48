"""What the embedder does: answers queries with vectors, turns commands into facts on the log."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from engram_contracts.auditing import EmbedDocument
from engram_contracts.commands import Command, Forget, Revise
from engram_contracts.errors import Rejected
from engram_contracts.events import Progress
from engram_contracts.facts import Embedding, Fact
from engram_contracts.questions import Check, EmbedQuery, QueryVectors
from engram_contracts.topology import WORK, WorkSubject, log_subject
from engram_embedder.commands import Draft, Ingest, drafted
from engram_embedder.embedding import Embedder, Searchable
from engram_embedder.gate import Urgency
from engram_embedder.lead import Lead
from engram_embedder.pace import Pace
from engram_runtime.bus import Bus, Entry
from engram_runtime.service import Delivery, Outcome, OutOfTurn

MADE_REMEMBERED = 1_024


def utc_now() -> datetime:
    """The time."""
    return datetime.now(UTC)


class Handlers:
    """One method per contract; `now` is the clock, `pace` how fast bulk work goes, `language` that of a tenant."""

    def __init__(
        self,
        embedder: Embedder,
        bus: Bus,
        *,
        pace: Pace | None = None,
        language: Callable[[str], str | None] = lambda _: None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._embedder = embedder
        self._bus = bus
        self._pace = pace or Pace()
        self._lead = Lead(bus)
        self._language = language
        self._now = now
        self._made_lately: deque[int] = deque(maxlen=MADE_REMEMBERED)
        """Sequences of commands whose facts are on the log, whether or not the stream has heard of it."""

    async def embed_query(self, question: EmbedQuery) -> QueryVectors:
        """A query's vectors, ahead of all other work."""
        return await self._embedder.query(question.text, question.dense_text, question.language)

    async def embed_document(self, question: EmbedDocument) -> Embedding:
        """The embedding of a memory's text, behind all other work."""
        language = self._language(question.tenant) if question.tenant else None
        wanted = Searchable(question.text, question.speaker, question.occurred_at, language)
        found = (await self._embedder.documents([wanted], Urgency.BULK))[0]
        if isinstance(found, Rejected):
            raise found
        return found

    async def ingest(self, batch: Sequence[Delivery[Command]]) -> list[Outcome]:
        """Turn commands into facts on the log; each is there when its outcome is `None`. A repeat adds nothing."""
        return await self._ingest(batch, Urgency.INTERACTIVE, among=batch)

    async def ingest_bulk(self, batch: Sequence[Delivery[Command]]) -> list[Outcome]:
        """As `ingest`, behind it, never far ahead of the index, and in portions while another tenant is served."""
        outcomes: list[Outcome] = []
        while left := batch[len(outcomes) :]:
            portion = left[: self._pace.portion([delivery.tenant for delivery in left])]
            tenants = [delivery.tenant for delivery in portion]
            await self._pace.turn(tenants)
            await self._lead.wait(tenants)
            outcomes += await self._ingest(portion, Urgency.BULK, among=batch)
        return outcomes

    async def check_model(self) -> Check:
        """Whether the model works."""
        return await self._embedder.check()

    async def _ingest(
        self, batch: Sequence[Delivery[Command]], urgency: Urgency, *, among: Sequence[Delivery[Command]]
    ) -> list[Outcome]:
        """The outcomes of a batch, whose messages follow those before them `among` all that are in hand."""
        here = {delivery.sequence for delivery in among}
        early = [await self._early(delivery, here) for delivery in batch]
        due = [delivery for delivery, refusal in zip(batch, early, strict=True) if refusal is None]
        made = iter(await self._made(due, urgency) if due else ())
        outcomes = [refusal or next(made) for refusal in early]
        done = (delivery.sequence for delivery, outcome in zip(batch, outcomes, strict=True) if outcome is None)
        self._made_lately.extend(done)
        return outcomes

    async def _early(self, delivery: Delivery[Command], here: set[int]) -> OutOfTurn | None:
        """For a change that has come before its memory: that command still waits, or somebody who died had it."""
        change = delivery.message
        if not isinstance(change, Revise | Forget) or change.behind is None:
            return None
        if (
            change.behind in here
            or change.behind in self._made_lately
            or not await self._waits(delivery.tenant, change)
        ):
            return None
        return OutOfTurn(f"memory {change.memory_id!r} is not made yet", field="memory_id")

    async def _waits(self, tenant: str, change: Revise | Forget) -> bool:
        assert change.behind is not None
        found = await self._bus.read(WORK, change.behind)
        return found is not None and WorkSubject.parse(found.subject).tenant == tenant and found.id == change.memory_id

    async def _made(self, batch: Sequence[Delivery[Command]], urgency: Urgency) -> list[Outcome]:
        facts = await self._facts([self._understood(delivery) for delivery in batch], urgency)
        outcomes = await self._append(batch, facts)
        done = [delivery for delivery, outcome in zip(batch, outcomes, strict=True) if outcome is None]
        await self._announce(done)
        return outcomes

    def _understood(self, delivery: Delivery[Command]) -> Draft | Rejected:
        try:
            return drafted(delivery.message, self._language(delivery.tenant))
        except Rejected as error:
            return error

    async def _facts(self, drafts: Sequence[Draft | Rejected], urgency: Urgency) -> list[Fact | Rejected]:
        wanted = {
            n: draft.searchable for n, draft in enumerate(drafts) if isinstance(draft, Draft) and draft.searchable
        }
        found = await self._embedder.documents(list(wanted.values()), urgency)
        embeddings = dict(zip(wanted, found, strict=True))
        at = self._now()
        return [_fact(draft, embeddings.get(n), at) for n, draft in enumerate(drafts)]

    async def _append(self, batch: Sequence[Delivery[Command]], facts: Sequence[Fact | Rejected]) -> list[Outcome]:
        outcomes: list[Outcome] = [fact if isinstance(fact, Rejected) else None for fact in facts]
        entries = {n: _entry(batch[n], fact) for n, fact in enumerate(facts) if not isinstance(fact, Rejected)}
        appended = await self._bus.append(list(entries.values()))
        for n, result in zip(entries, appended, strict=True):
            outcomes[n] = result if isinstance(result, Exception) else None
        return outcomes

    async def _announce(self, done: Sequence[Delivery[Command]]) -> None:
        at = self._now()
        by_tenant: defaultdict[str, list[Ingest]] = defaultdict(list)
        for delivery in done:
            if isinstance(delivery.message, Ingest):
                by_tenant[delivery.tenant].append(delivery.message)
        for tenant, commands in by_tenant.items():
            await self._bus.emit(tenant, _progress(commands, at))


def _progress(commands: Sequence[Ingest], at: datetime) -> Progress:
    ids = tuple(command.id for command in commands)
    return Progress(stage="embedded", commands=ids, memory_ids=tuple(c.memory_id for c in commands), at=at)


def _fact(draft: Draft | Rejected, embedding: Embedding | Rejected | None, at: datetime) -> Fact | Rejected:
    if isinstance(draft, Rejected):
        return draft
    return embedding if isinstance(embedding, Rejected) else draft.fact(at, embedding)


def _entry(delivery: Delivery[Command], fact: Fact) -> Entry:
    return Entry(
        subject=log_subject(delivery.tenant, fact.event),
        body=fact.encode(),
        id=fact.command,
        correlation=delivery.correlation,
        trace=delivery.trace,
    )
