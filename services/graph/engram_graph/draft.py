"""The effects of a batch of facts, worked out in memory before anything is written. Pure.

Facts are applied strictly one after the other, and each sees what those before it did, so that the result does not
depend on where the log was cut into batches. The store is read before (`wanted`) and written after (`Draft.batch`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import combinations, product
from typing import Any

from pydantic import Field, ValidationError

from engram_contracts.errors import Conflict, EngramError, NotFound, Rejected
from engram_contracts.facts import (
    Accessed,
    EdgeDropped,
    EdgePut,
    Embedding,
    Fact,
    Forgotten,
    Judged,
    Linked,
    NodeDropped,
    NodePut,
    Remembered,
    Revised,
    Thought,
)  # fmt: skip
from engram_contracts.memory import Memory, MemoryChanges
from engram_graph.extraction import extract
from engram_graph.records import Batch, Entry, Found, GraphChange, Named, Row, Triple, Wanted
from engram_graph.schema import slot
from engram_graph.validity import Stretch, put
from engram_graph.vocabulary import Known, Origin, Vocabulary
from engram_runtime.service import Delivery, Outcome

MENTIONED, CO_OCCURS = "mentioned", "co_occurs"

COMPANY = 6
"""Entities of a memory that are joined with each other."""


class Noted(Remembered):
    """A `Remembered` of which the embedding is left unread: that takes a third off the decoding."""

    embedding: Embedding = Field(default=Embedding(model="", chunks=(), tokens=0), validation_alias="-")


OPS: dict[type[Fact], str] = {
    Remembered: "remember", Noted: "remember", Revised: "revise", Forgotten: "forget", Thought: "think",
    NodePut: "put-node", NodeDropped: "drop-node", EdgePut: "put-edge", EdgeDropped: "drop-edge", Linked: "link",
    Judged: "judge", Accessed: "access",
}  # fmt: skip
"""The facts the graph understands, and the command behind each."""

FACTS: dict[str, type[Fact]] = {kind.event: kind for kind in OPS}
"""The type that each event on the log is read as."""

_READ = frozenset({"content", "speaker", "tags", "occurred_at"})
"""The fields that extraction reads."""

WRITTEN = ("memories", "versions", "nodes", "mentions", "evidence", "edges", "feedback")
"""The tables that a tenant's part of a batch goes to."""

WITHDRAWN = "(This answer rested on a memory that was forgotten.)"


def wanted(deliveries: Sequence[Delivery[Fact]], vocabularies: Mapping[str, Vocabulary]) -> Wanted:
    """What the store has to be asked before these facts are applied."""
    new, old = set(), set()
    triples = set()
    for delivery in deliveries:
        fact, tenant = delivery.message, delivery.tenant
        if isinstance(fact, Remembered):
            new.add((tenant, fact.memory.id))
        elif isinstance(fact, Thought):
            new.update((tenant, citation.memory_id) for citation in fact.citations)
        elif isinstance(fact, Revised | Forgotten | Linked | Judged):
            old.add((tenant, fact.memory_id))
        elif isinstance(fact, Accessed):
            new.update((tenant, memory_id) for memory_id in fact.times)
        elif isinstance(fact, EdgePut | EdgeDropped):
            new.update((tenant, memory_id) for memory_id in getattr(fact, "evidence", ()))
            known = vocabularies[tenant]
            for source, target in product(known.candidates(fact.source), known.candidates(fact.target)):
                triples.add((tenant, (source.key, fact.type, target.key)))
    return Wanted(
        commands=frozenset((delivery.tenant, delivery.message.command) for delivery in deliveries),
        memories=frozenset(new | old),
        linked=frozenset(old),
        triples=frozenset(triples),
    )


class Draft:
    """A batch in the making. `apply` takes facts in the order of the log; then `batch` is written.

    Texts of tenants that are to stay `unread` give no names to the graph, where they would be in the clear.
    """

    def __init__(
        self,
        found: Found,
        vocabularies: Mapping[str, Vocabulary],
        *,
        linked_at: datetime,
        unread: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._commands = set(found.commands)
        self._found = found
        self._linked_at = linked_at
        self._jobs: list[tuple[Named, Row]] = []
        self._thoughts: dict[Named, Thought] = {}
        self._sequence = 0
        self._appended: datetime | None = None
        self.keys = _Keys(found.next_memory, found.next_node)
        self.tenants = {
            name: TenantDraft(name, each, found, self.keys, reads=not unread(name))
            for name, each in vocabularies.items()
        }

    def apply(self, delivery: Delivery[Fact]) -> tuple[bool, Outcome]:
        """Whether the fact took effect now (not already before), and what became of it."""
        self._sequence, self._appended = delivery.sequence, delivery.at
        command = (delivery.tenant, delivery.message.command)
        if command in self._commands:
            return False, None
        try:
            self._effect(delivery.tenant, delivery.message)
        except EngramError as error:
            return False, error
        self._commands.add(command)
        self._record(command, delivery.message, delivery.sequence)
        return True, None

    def batch(self) -> Batch:
        """Everything to write, once all facts were applied."""
        batch = Batch(self._sequence, self.keys.memory, self.keys.node, self._appended)
        batch.rows = {table: [] for table in WRITTEN}
        for tenant in self.tenants.values():
            tenant.write(batch)
        batch.rows["jobs"] = [
            (*row, self._answer(command) if command in self._thoughts else None) for command, row in self._jobs
        ]
        return batch

    def _effect(self, tenant: str, fact: Fact) -> None:  # noqa: C901  # one line for each kind of fact
        draft = self.tenants[tenant]
        match fact:
            case Remembered():
                draft.remember(fact.memory)
            case Revised():
                draft.revise(fact.memory_id, fact.changes, at=fact.at)
            case Forgotten():
                draft.forget(fact.memory_id)
            case Judged():
                draft.judge(fact, self._sequence)
            case Accessed():
                draft.access(fact.times, fact.at)
            case Linked():
                draft.link(fact)
            case NodePut():
                draft.put_node(fact.node, fact.attributes)
            case NodeDropped():
                draft.drop_node(fact.node)
            case EdgePut():
                draft.put_edge(fact)
            case EdgeDropped():
                draft.drop_edge(fact)
            case Thought():
                self._thoughts[(tenant, fact.command)] = fact

    def _record(self, command: Named, fact: Fact, sequence: int) -> None:
        if isinstance(fact, Accessed):
            return  # nobody waits for it
        memory_id = fact.memory.id if isinstance(fact, Remembered) else getattr(fact, "memory_id", None)
        times = _naive(fact.accepted_at), _naive(fact.at), _naive(self._linked_at)
        row = (command[0], slot(*command), command[1], memory_id, OPS[type(fact)], *times, sequence)
        self._jobs.append((command, row))

    def _answer(self, command: Named) -> str:
        thought, tenant = self._thoughts[command], self.tenants[command[0]]
        if any(tenant.was_forgotten(citation.memory_id) for citation in thought.citations):
            thought = withdraw(thought)
        return thought.encode().decode()


def withdraw(thought: Thought) -> Thought:
    """The thought without its words, because a memory it rested on was forgotten; what it cost stays."""
    citations = tuple(citation.model_copy(update={"quote": ""}) for citation in thought.citations)
    return thought.model_copy(update={"answer": WITHDRAWN, "citations": citations})


class _Keys:
    """The writer's counters."""

    def __init__(self, memory: int, node: int) -> None:
        self.memory = memory
        self.node = node

    def next_memory(self) -> int:
        self.memory += 1
        return self.memory - 1

    def next_node(self) -> int:
        self.node += 1
        return self.node - 1


class TenantDraft:
    """One tenant's part of a draft. It changes the vocabulary in place: drop that if the batch is not written."""

    def __init__(self, tenant: str, vocabulary: Vocabulary, found: Found, keys: _Keys, *, reads: bool = True) -> None:
        self.tenant = tenant
        self._reads = reads
        self._vocabulary = vocabulary
        self._keys = keys
        self._memories = {name: entry for (owner, name), entry in found.memories.items() if owner == tenant}
        self._edges = {triple: each for (owner, triple), each in found.edges.items() if owner == tenant}
        self._before = {entry.id: (dict(entry.mentions), dict(entry.evidence)) for entry in self._memories.values()}
        self._versions: dict[str, list[Row]] = {}
        self._feedback: dict[str, list[Row]] = {}
        self._fresh_nodes: set[int] = set()
        self._touched: dict[int, Known] = {}
        self._changed_edges: set[Triple] = set()
        self._dropped: list[int] = []
        self._cut: list[Triple] = []
        self._wiped: list[str] = []

    # Memories

    def remember(self, memory: Memory) -> None:
        """Keep a memory. Raises `Conflict` when its id is taken, also by a memory that was forgotten."""
        if memory.id in self._memories:
            raise Conflict(f"memory {memory.id!r} exists already, by another command; revise it or take another id")
        entry = Entry(self._keys.next_memory(), memory.id, memory)
        self._memories[memory.id] = entry
        self._read(entry, memory)

    def revise(self, memory_id: str, changes: Mapping[str, Any], *, at: datetime) -> None:
        """Change fields of a memory; the record as it stood becomes history."""
        entry, old = self._living(memory_id)
        try:
            changed = MemoryChanges.model_validate(changes).changed()
        except ValidationError as error:
            raise Rejected(
                f"these changes are not a valid edit: {error.errors(include_url=False)[0]['msg']}"
            ) from error
        if "content" in changed:
            changed["feedback"] = None
        new = old.model_copy(update={**changed, "version": old.version + 1, "updated_at": at})
        self._versions.setdefault(memory_id, []).append(version_row(self.tenant, entry.key, old))
        entry.memory, entry.changed = new, True
        if _READ & changed.keys():
            self._read(entry, new, stale=("rule", "model") if "content" in changed else ("rule",))

    def judge(self, fact: Judged, sequence: int) -> None:
        """Count a verdict, and keep it. Of a memory that was forgotten, nothing is kept."""
        entry = self._entry(fact.memory_id)
        if entry.memory is None:
            return
        row = (
            self.tenant, entry.key, entry.memory.version, _naive(fact.at), fact.verdict, fact.query, fact.note,
            fact.actor, sequence,
        )  # fmt: skip
        self._feedback.setdefault(fact.memory_id, []).append(row)
        entry.memory, entry.changed = entry.memory.judged(fact.verdict), True

    def access(self, recalled: Mapping[str, int], at: datetime) -> None:
        """Count recalls; of memories that are not there any more, none."""
        for memory_id, times in recalled.items():
            entry = self._memories.get(memory_id)
            if entry is not None and entry.memory is not None:
                entry.memory, entry.changed = entry.memory.accessed(times, at), True

    def forget(self, memory_id: str) -> None:
        """Wipe a memory; its id stays taken. A repeat changes nothing."""
        entry = self._entry(memory_id)
        if entry.memory is None:
            return
        self._replace_links(entry, {}, {}, stale=("rule", "model"))
        entry.memory, entry.changed, entry.wiped = None, True, True
        self._versions.pop(memory_id, None)
        self._feedback.pop(memory_id, None)
        self._wiped.append(memory_id)

    def unlink(self, memory_id: str) -> None:
        """Take back everything a memory is tied to, before its rows are taken out of the record."""
        entry = self._entry(memory_id)
        self._replace_links(entry, {}, {}, stale=("rule", "model"))
        entry.changed = True

    def link(self, fact: Linked) -> None:
        """Add what a model found in a memory. Of a memory forgotten meanwhile, nothing is kept."""
        entry = self._entry(fact.memory_id)
        if entry.memory is None:
            return
        triples: dict[Triple, Origin] = {}
        for source, kind, target in fact.edges:
            ends = self._node(source, "model"), self._node(target, "model")
            if ends[0] is not ends[1]:
                triples[ends[0].key, kind, ends[1].key] = "model"
        nodes = [self._node(node, "model") for node in fact.nodes]
        keys = [*(node.key for node in nodes), *(key for source, _, target in triples for key in (source, target))]
        self._replace_links(entry, dict.fromkeys(keys, "model"), triples, stale=())
        entry.changed = True

    def was_forgotten(self, memory_id: str) -> bool:
        """Whether a memory that was looked up is forgotten by the end of the batch."""
        entry = self._memories.get(memory_id)
        return entry is not None and entry.memory is None

    def _entry(self, memory_id: str) -> Entry:
        entry = self._memories.get(memory_id)
        if entry is None:
            raise NotFound(f"there is no memory {memory_id!r}")
        return entry

    def _living(self, memory_id: str) -> tuple[Entry, Memory]:
        entry = self._entry(memory_id)
        if entry.memory is None:
            raise NotFound(f"memory {memory_id!r} was forgotten")
        return entry, entry.memory

    def _read(self, entry: Entry, memory: Memory, stale: Sequence[Origin] = ()) -> None:
        """Take mentions and evidence from the text, in place of those whose origin is `stale`."""
        reference = memory.occurred_at or memory.created_at
        speaker = self._speaker(memory.speaker) if memory.speaker and memory.speaker.strip() else None
        text = memory.content if self._reads else ""
        names = extract(text, self._vocabulary, reference=reference, tags=memory.tags, headed=speaker is None)
        keys = list(dict.fromkeys([self._node(name, "rule").key for name in names]))
        evidence: dict[Triple, Origin] = {}
        if speaker is not None:
            keys = [key for key in keys if key != speaker.key]
            evidence = {(speaker.key, MENTIONED, key): "rule" for key in keys}
        for one, other in combinations(sorted(keys[:COMPANY]), 2):
            evidence[one, CO_OCCURS, other] = "rule"
        if speaker is not None:
            keys.append(speaker.key)
        if stale or entry.mentions:
            self._replace_links(entry, dict.fromkeys(keys, "rule"), evidence, stale=stale)
        else:
            for key in keys:
                entry.mentions[key] = "rule"
                self._known(key).mentions += 1
            entry.evidence = evidence

    def _replace_links(
        self,
        entry: Entry,
        mentions: Mapping[int, Origin],
        evidence: Mapping[Triple, Origin],
        *,
        stale: Sequence[Origin],
    ) -> None:
        """Add links, and remove those of a `stale` origin that are not among them."""
        for key, origin in mentions.items():
            if key not in entry.mentions:
                self._known(key).mentions += 1
                entry.mentions[key] = origin
        for triple, origin in evidence.items():
            entry.evidence.setdefault(triple, origin)
        entry.evidence = {
            triple: origin for triple, origin in entry.evidence.items() if origin not in stale or triple in evidence
        }
        for key in [key for key, origin in entry.mentions.items() if origin in stale and key not in mentions]:
            del entry.mentions[key]
            self._unmention(self._known(key))

    # Nodes

    def put_node(self, name: str, attributes: Mapping[str, Any]) -> None:
        """Have a node with at least these attributes."""
        node = self._vocabulary.get(name) or self._new(name, "manual")
        merged = {**(json.loads(node.attributes) if node.attributes else {}), **attributes}
        node.attributes = json.dumps(merged, ensure_ascii=False) if merged else ""
        self._keep(node)

    def drop_node(self, name: str) -> None:
        """Remove a node with its edges and mentions. One that is not there is no error."""
        node = self._vocabulary.resolve(name)
        if node is None:
            return
        key = node.key
        for entry in self._memories.values():
            entry.mentions.pop(key, None)
            entry.evidence = {triple: origin for triple, origin in entry.evidence.items() if key not in triple}
        for triple in [triple for triple in self._edges if key in triple]:
            self._edges[triple] = []
        self._dropped.append(key)
        self._drop(node)

    def _speaker(self, name: str) -> Known:
        """The person of this name. A node a rule had made of the name becomes the person, with all it is tied to."""
        person = f"person:{name.strip()}"
        known = self._vocabulary.get(person)
        if known is not None:
            return known
        namesake = self._vocabulary.get(f"name:{name.strip()}")
        if namesake is None or namesake.origin == "manual":
            return self._new(person, "rule")
        self._vocabulary.rename(namesake, person)
        self._touched[namesake.key] = namesake
        return namesake

    def _node(self, name: str, origin: Origin) -> Known:
        return self._vocabulary.resolve(name) or self._new(name, origin)

    def _new(self, name: str, origin: Origin) -> Known:
        node = Known(self._keys.next_node(), name, origin)
        self._vocabulary.add(node)
        self._fresh_nodes.add(node.key)
        self._touched[node.key] = node
        return node

    def _keep(self, node: Known) -> None:
        if node.origin != "manual":
            self._vocabulary.keep(node)
        self._touched[node.key] = node

    def _known(self, key: int) -> Known:
        node = self._vocabulary.at(key)
        if node is None:
            raise KeyError(f"node {key} of tenant {self.tenant} is mentioned but not known")
        return node

    def _unmention(self, node: Known) -> None:
        node.mentions -= 1
        if node.mentions == 0 and node.origin != "manual":
            self._drop(node)

    def _drop(self, node: Known) -> None:
        self._vocabulary.remove(node)
        self._touched[node.key] = node

    # Edges

    def put_edge(self, fact: EdgePut) -> None:
        """Have an edge with this weight in this stretch of time; see `validity.put`."""
        if fact.valid_from is not None and fact.valid_to is not None and fact.valid_from >= fact.valid_to:
            raise Rejected("valid_from must lie before valid_to", field="valid_from")
        if (self._vocabulary.resolve(fact.source) or fact.source) == (
            self._vocabulary.resolve(fact.target) or fact.target
        ):
            raise Rejected("an edge joins two different nodes", field="target")
        ends = [self._node(name, "manual") for name in (fact.source, fact.target)]
        for node in ends:
            self._keep(node)
        triple = (ends[0].key, fact.type, ends[1].key)
        new = Stretch(
            weight=fact.weight, valid_from=fact.valid_from, valid_to=fact.valid_to,
            evidence=tuple(dict.fromkeys(fact.evidence)),
        )  # fmt: skip
        self._edges[triple] = put(self._edges.get(triple, []), new)
        self._changed_edges.add(triple)

    def drop_edge(self, fact: EdgeDropped) -> None:
        """Remove an edge, put or found; memories that come later may find it again. None there is no error."""
        ends = [self._vocabulary.resolve(name) for name in (fact.source, fact.target)]
        if ends[0] is None or ends[1] is None:
            return
        triple = (ends[0].key, fact.type, ends[1].key)
        for entry in self._memories.values():
            entry.evidence.pop(triple, None)
        self._edges[triple] = []
        self._changed_edges.add(triple)
        self._cut.append(triple)

    # What is to be written

    def write(self, batch: Batch) -> None:
        """Add this tenant's part to the batch."""
        for entry in self._memories.values():
            if entry.changed:
                self._write_memory(entry, batch)
        for versions in self._versions.values():
            batch.rows["versions"].extend(versions)
        for verdicts in self._feedback.values():
            batch.rows["feedback"].extend(verdicts)
        self._write_nodes(batch)
        self._write_edges(batch)
        if self._wiped:
            batch.withdrawn[self.tenant] = list(self._wiped)

    def _write_memory(self, entry: Entry, batch: Batch) -> None:
        tenant, key = self.tenant, entry.key
        if entry.stored:
            batch.gone_memories.append(key)
            batch.gone_links.append(key)
            if entry.wiped:
                batch.gone_versions.append(key)
        batch.rows["memories"].append(memory_row(tenant, entry))
        batch.rows["mentions"].extend([(tenant, key, node, origin) for node, origin in entry.mentions.items()])
        batch.rows["evidence"].extend(
            [(tenant, source, kind, target, key, by) for (source, kind, target), by in entry.evidence.items()]
        )

    def _write_nodes(self, batch: Batch) -> None:
        batch.dropped_nodes += [key for key in self._dropped if key not in self._fresh_nodes]
        for key, node in self._touched.items():
            if key not in self._fresh_nodes:
                batch.gone_nodes.append(key)
            if self._vocabulary.at(key) is node:
                batch.rows["nodes"].append((self.tenant, key, node.id, node.origin, node.attributes or None))

    def _write_edges(self, batch: Batch) -> None:
        batch.cut += self._cut
        batch.gone_edges += self._changed_edges
        for source, kind, target in self._changed_edges:
            batch.rows["edges"] += [
                (
                    self.tenant, source, kind, target, each.weight, _naive(each.valid_from), _naive(each.valid_to),
                    list(each.evidence),
                )
                for each in self._stretches((source, kind, target))
            ]  # fmt: skip

    def _stretches(self, triple: Triple) -> list[Stretch]:
        """What was put for an edge, without evidence that was forgotten."""
        return [
            replace(each, evidence=tuple(cited for cited in each.evidence if not self.was_forgotten(cited)))
            for each in self._edges[triple]
        ]

    def change(self) -> GraphChange:
        """The same for a graph in memory."""
        change = GraphChange(dropped_nodes=list(self._dropped), cut=list(self._cut), withdrawn=list(self._wiped))
        change.edges = {triple: self._stretches(triple) for triple in self._changed_edges}
        for key, node in self._touched.items():
            if self._vocabulary.at(key) is node:
                change.nodes.append((key, node.id, node.attributes))
            elif key not in self._dropped:
                change.dropped_nodes.append(key)
        for entry in self._memories.values():
            if entry.changed:
                self._tell(entry, change)
        return change

    def _tell(self, entry: Entry, change: GraphChange) -> None:
        mentions, before = self._before.get(entry.id, ({}, {}))
        evidence = {triple: origin for triple, origin in before.items() if triple not in self._cut}
        if not entry.stored:
            change.memories.append((entry.key, entry.id))
        change.lost_mentions += [(entry.key, node) for node in mentions if node not in entry.mentions]
        change.lost_evidence += [(triple, entry.key) for triple in evidence if triple not in entry.evidence]
        change.new_mentions += [(entry.key, node) for node in entry.mentions if node not in mentions]
        change.new_evidence += [(triple, entry.key) for triple in entry.evidence if triple not in evidence]


def memory_row(tenant: str, entry: Entry) -> Row:
    """A memory as the table holds it; of a forgotten one nothing is left but its id."""
    memory = entry.memory
    if memory is None:
        return (tenant, slot(tenant, entry.id), entry.key, entry.id, 0, "forgotten", *[None] * 9, [], None)
    created = _naive(memory.created_at)
    return (
        tenant, slot(tenant, entry.id), entry.key, entry.id, memory.version, memory.state, created,
        _naive(memory.updated_at), _naive(memory.occurred_at) or created, _naive(memory.expires_at),
        memory.user_id, memory.agent_id, memory.session_id, memory.kind, memory.speaker, list(memory.tags),
        memory.encode().decode(),
    )  # fmt: skip


def version_row(tenant: str, key: int, memory: Memory) -> Row:
    """A version that was replaced, as the table holds it."""
    change = "created" if memory.version == 1 else "revised"
    return (tenant, key, memory.version, _naive(memory.updated_at), change, memory.encode().decode())


def _naive(moment: datetime | None) -> datetime | None:
    """A moment in UTC as DuckDB takes it."""
    return None if moment is None else moment.replace(tzinfo=None)
