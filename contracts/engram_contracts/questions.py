"""Questions and their replies: request/reply on `engram.rpc.<service>.<verb>`, one answerer each.

A question that nobody answers before its deadline is forgotten and says so (`Unavailable`). A repeat is a
new question. Questions carry their tenant; an answerer looks at nothing else.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

from pydantic import Field

from engram_contracts.commands import EdgeType, NodeId, QueryText
from engram_contracts.facts import SparseVector, Thought
from engram_contracts.memory import Filters, Judgement, Memory, MemoryVersion, Share
from engram_contracts.messages import Message, Moment, Strict, Tenant
from engram_contracts.trail import Head

Stage = Literal[
    "accepted", "embedded", "indexed", "linked", "done", "retrying", "dead", "cancelled", "expired",
]  # fmt: skip
R = TypeVar("R", bound=Message)


class Question(Message, Generic[R]):
    """Base of all questions. `service` and `verb` make the subject, `Reply` is what comes back."""

    service: ClassVar[str]
    verb: ClassVar[str]
    Reply: ClassVar[type[Message]]


# --- embedder ---------------------------------------------------------------------------------------


class QueryVectors(Message):
    """A query's vectors, and the model that made the dense one (`name@dimension`)."""

    model: str
    dense: bytes
    sparse: SparseVector


class EmbedQuery(Question[QueryVectors]):
    """Vectors for a query. Answered by the embedder, ahead of any bulk work."""

    service, verb, Reply = "embedder", "embed-query", QueryVectors
    text: QueryText
    dense_text: QueryText | None = None
    """What the dense vector is of, where that is not `text`."""
    language: str | None = None
    """Whose stems count, where it is not the installation's."""


# --- vectors ----------------------------------------------------------------------------------------


Mode = Literal["auto", "lookup", "dialogue", "multi-hop", "browse"]
"""How a recall goes about it.

`lookup` fuses the legs; `dialogue` adds what is known of speakers and neighbouring turns; `multi-hop` ranks by
the graph from there; `browse` prefers what is new. `auto` chooses by the question.
"""

Weight = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class RecallWeights(Strict):
    """Weights of the ranking that a request may set; those it leaves out are the service's own. Version 2.

    `dense` is the dense leg's share, the sparse leg has the rest. `neighbours` scales what neighbouring turns of
    a conversation lend, `speaker` is for memories of a speaker whom the question names, `statement` for turns that
    are not themselves questions, `date` for memories of a time that it names; `graph` is for activation. `recency`
    counts with `half_life_days`. `feedback` is for memories that were found useful, and three times as much against
    those that were not, or were wrong. `access` is for memories that were recalled often (ten doublings are all there
    is), `session` for those whose session holds other good ones. `first_person` puts a speaker's name in the first
    person for the dense leg. `diversity` runs from 0 (none) to 1 (nothing alike).
    """

    dense: Weight | None = None
    fusion: Literal["min-max", "rrf"] | None = None
    neighbours: Weight | None = None
    speaker: Weight | None = None
    statement: Weight | None = None
    date: Weight | None = None
    graph: Weight | None = None
    recency: Weight | None = None
    importance: Weight | None = None
    confidence: Weight | None = None
    feedback: Weight | None = None
    access: Weight | None = None
    session: Weight | None = None
    half_life_days: Annotated[float, Field(gt=0, le=36_500)] | None = None
    first_person: bool | None = None
    diversity: Weight | None = None


Similarity = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
"""A cosine."""

Fold = Literal["none", "same", "near"]
"""Which results stand behind a better one that says as much: those of the same words and speaker, or also those that
share nine words in ten."""


class Explanation(Message):
    """Why a result stands where it does: `score` is the sum of `parts`, legs and boosts alike.

    `raw` holds each leg's own scores, `normalised` the same from 0 to 1 before weighing, `ranks` the places in it;
    `path` leads through the graph.
    """

    parts: dict[str, float]
    raw: dict[str, float]
    normalised: dict[str, float] = Field(default_factory=dict)
    ranks: dict[str, int]
    path: tuple[str, ...] = ()


class Hit(Message):
    """A recalled memory. `score` runs from 0 to 1, higher is better; `legs` names what found it."""

    memory: Memory
    score: float
    legs: tuple[str, ...]
    excerpt: str | None = None
    """For a long memory, the stretch of it that matched."""
    duplicates: tuple[str, ...] = ()
    """Ids of memories that are folded into this one (at most 20), best first."""
    explain: Explanation | None = None


class Recollection(Message):
    """Ranked memories. `degraded` names the parts that could not help, with the reason."""

    hits: tuple[Hit, ...]
    degraded: tuple[str, ...] = ()
    took_ms: float = 0.0
    stages_ms: dict[str, float] | None = None
    mode: Mode | None = None
    """The way it went, where the request left the choice."""
    weights: dict[str, Any] | None = None
    """The weights it went by, when it was to explain."""


class Recall(Question[Recollection]):
    """The memories that best answer a query. Answered by vectors.

    `as_of` is the moment that "yesterday" in the query refers to, now by default. Results below `min_score` are
    left out, so an answer may be empty. `min_score` compares a result with the others; `min_similarity` is absolute: a
    result whose dense vector is less like the query's is left out, unless it holds a rare word of the query. These are
    its names and numbers, or, where there are none, its words of four letters or more that are not among the commonest.
    """

    service, verb, Reply = "vectors", "recall", Recollection
    tenant: Tenant
    query: QueryText
    limit: int = Field(default=10, ge=1, le=100)
    filters: Filters = Filters()
    explain: bool = False
    deadline_ms: int = 2_000
    mode: Mode = "auto"
    weights: RecallWeights | None = None
    as_of: Moment | None = None
    min_score: Share = 0.0
    min_similarity: Similarity = 0.0
    fold: Fold = "same"


class IndexedMemory(Message):
    """A memory as the index holds it, and when it became searchable."""

    memory: Memory
    indexed_at: Moment
    command: str
    """The last command whose effect the index shows."""
    earlier: tuple[str, ...] = ()
    """Some commands before it."""


class Indexed(Message):
    """The memory, or nothing where the index does not hold it."""

    found: IndexedMemory | None = None


class FindIndexed(Question[Indexed]):
    """What the index holds under a memory's id. Answered by vectors."""

    service, verb, Reply = "vectors", "find", Indexed
    tenant: Tenant
    memory_id: str


class Count(Message):
    """How many memories a store holds."""

    memories: int


class CountIndexed(Question[Count]):
    """How many of a tenant's memories can be recalled. Answered by vectors."""

    service, verb, Reply = "vectors", "count", Count
    tenant: Tenant


# --- reasoner ---------------------------------------------------------------------------------------

PackingOrder = Literal["greedy", "balanced", "recent"]
"""Which memories come first, until the budget is used up.

`greedy` takes the most relevant ones; `balanced` the most relevant of each session in turn, so that no conversation
crowds out the others; `recent` the newest of those that were found.
"""


class ContextSource(Message):
    """A memory of a context. `number` is its mark in the text, `text` what of it found room (`cut`: not all of it)."""

    number: int
    memory_id: str
    text: str
    score: float
    when: Moment
    speaker: str | None = None
    session_id: str | None = None
    kind: str = "note"
    cut: bool = False


class PackedContext(Message):
    """Memories for a prompt: `text` is a line of each source, `tokens` what that costs by estimate.

    `left_out` memories were found and had no room.
    """

    text: str
    sources: tuple[ContextSource, ...]
    tokens: int
    left_out: int
    degraded: tuple[str, ...] = ()


class PackContext(Question[PackedContext]):
    """What a prompt of `budget` tokens should know to answer a query; no model is asked. Answered by the reasoner."""

    service, verb, Reply = "reasoner", "context", PackedContext
    tenant: Tenant
    query: QueryText
    budget: int = Field(default=2_000, ge=64, le=100_000)
    order: PackingOrder = "greedy"
    limit: int = Field(default=50, ge=1, le=100)
    filters: Filters = Filters()
    as_of: Moment | None = None
    min_score: Share = 0.0


# --- graph ------------------------------------------------------------------------------------------


class GetMemory(Question[Memory]):
    """One memory's current record; `NotFound` when the tenant has none of that id. Answered by the graph."""

    service, verb, Reply = "graph", "memory", Memory
    tenant: Tenant
    memory_id: str


class History(Message):
    """All versions of a memory, and the verdicts on it, each oldest first."""

    versions: tuple[MemoryVersion, ...]
    feedback: tuple[Judgement, ...] = ()


class GetHistory(Question[History]):
    """A memory's versions; `NotFound` as for `GetMemory`. Answered by the graph."""

    service, verb, Reply = "graph", "history", History
    tenant: Tenant
    memory_id: str


class MemoryPage(Message):
    """Memories, newest first; `after` continues the list, and is absent on the last page."""

    memories: tuple[Memory, ...]
    after: str | None = None
    total: int | None = None


class ListMemories(Question[MemoryPage]):
    """A tenant's memories, newest id first, from below the id `after`. Answered by the graph."""

    service, verb, Reply = "graph", "memories", MemoryPage
    tenant: Tenant
    filters: Filters = Filters()
    limit: int = Field(default=50, ge=1, le=1_000)
    after: str | None = None


class Node(Message):
    """A node of the graph. `mentions` counts the memories that speak of it, `degree` its edges."""

    id: NodeId
    type: str
    name: str
    attributes: dict[str, Any] = Field(default_factory=dict)
    mentions: int = 0
    degree: int = 0


class Edge(Message):
    """A typed, weighted edge; `evidence` holds ids of memories it came from (at most 20 are listed)."""

    source: NodeId
    type: EdgeType
    target: NodeId
    weight: float
    valid_from: Moment | None = None
    valid_to: Moment | None = None
    evidence: tuple[str, ...] = ()


class NodeDetail(Message):
    """A node, its strongest edges and the memories that mention it, newest first."""

    node: Node
    edges: tuple[Edge, ...]
    memory_ids: tuple[str, ...]


class GetNode(Question[NodeDetail]):
    """One node; `NotFound` when the tenant has none of that id. Answered by the graph.

    With `within`, here and in the next questions, the graph is that which these memories alone tell: what is found
    in others, and what was put by hand, is not there.
    """

    service, verb, Reply = "graph", "node", NodeDetail
    tenant: Tenant
    within: Filters | None = None
    node: NodeId
    limit: int = Field(default=20, ge=1, le=200)


class NodePage(Message):
    """Nodes by number of mentions, then id; `after` continues the list."""

    nodes: tuple[Node, ...]
    after: str | None = None


class ListNodes(Question[NodePage]):
    """A tenant's nodes, narrowed by `type` and by a `prefix` of the name. Answered by the graph."""

    service, verb, Reply = "graph", "nodes", NodePage
    tenant: Tenant
    within: Filters | None = None
    type: str | None = None
    prefix: str | None = None
    limit: int = Field(default=50, ge=1, le=1_000)
    after: str | None = None


class Reached(Message):
    """A node with the number of steps to it and the activation that arrived."""

    node: Node
    hops: int
    activation: float


class Neighbourhood(Message):
    """Nodes around a node, strongest first, and the edges among them. `truncated` when a bound cut it."""

    nodes: tuple[Reached, ...]
    edges: tuple[Edge, ...]
    truncated: bool = False


class Neighbours(Question[Neighbourhood]):
    """What lies within `hops` of a node, at the time `at` (now by default). Answered by the graph."""

    service, verb, Reply = "graph", "neighbours", Neighbourhood
    tenant: Tenant
    within: Filters | None = None
    node: NodeId
    hops: int = Field(default=1, ge=1, le=3)
    limit: int = Field(default=50, ge=1, le=1_000)
    edge_type: str | None = None
    at: Moment | None = None


class Path(Message):
    """The nodes of a shortest path, ends included, and the edges along it."""

    nodes: tuple[NodeId, ...]
    edges: tuple[Edge, ...]


class FindPath(Question[Path]):
    """A shortest path between two nodes; `NotFound` when there is none within `max_hops`. Answered by the graph."""

    service, verb, Reply = "graph", "path", Path
    tenant: Tenant
    within: Filters | None = None
    source: NodeId
    target: NodeId
    max_hops: int = Field(default=6, ge=1, le=10)


class Activated(Message):
    """Memory ids with the activation that reached them through the graph, strongest first, and how it came."""

    memory_ids: tuple[str, ...]
    activations: tuple[float, ...]
    paths: tuple[tuple[NodeId, ...], ...] = ()
    seeds: tuple[NodeId, ...] = ()


class Activate(Question[Activated]):
    """Memories near the tenant's nodes that `text` names, by bounded spreading activation. Answered by the graph."""

    service, verb, Reply = "graph", "activate", Activated
    tenant: Tenant
    text: QueryText
    steps: int = Field(default=2, ge=1, le=3)
    limit: int = Field(default=50, ge=1, le=500)


class Walked(Message):
    """Memory ids with the share of a random walk's time that is spent there, most first, and how it comes there.

    `seeds` are the nodes that the text named; where there are none, nothing was walked.
    """

    memory_ids: tuple[str, ...] = ()
    shares: tuple[float, ...] = ()
    paths: tuple[tuple[NodeId, ...], ...] = ()
    seeds: tuple[NodeId, ...] = ()


class Walk(Question[Walked]):
    """Where a walk over memories and what they mention leads that keeps starting anew from some memories, and from
    the nodes that `text` names (personalised PageRank). Answered by the graph.

    `memory_ids` are the starts with their `masses`; nodes and memories get equal parts.
    """

    service, verb, Reply = "graph", "walk", Walked
    tenant: Tenant
    text: QueryText
    memory_ids: tuple[str, ...] = Field(max_length=100)
    masses: tuple[float, ...] = Field(max_length=100)
    limit: int = Field(default=50, ge=1, le=500)


class JobRecord(Message):
    """What the record knows of a command that took effect."""

    memory_id: str | None = None
    accepted_at: Moment
    embedded_at: Moment
    linked_at: Moment
    thought: Thought | None = None
    """The answer, when the command was to think."""


class Found(Message):
    """The record of a command, or nothing where it took no effect yet."""

    found: JobRecord | None = None


class FindJob(Question[Found]):
    """What the record knows of a command. Answered by the graph."""

    service, verb, Reply = "graph", "job", Found
    tenant: Tenant
    command: str


class CountRecorded(Question[Count]):
    """How many live memories the record holds for a tenant. Answered by the graph."""

    service, verb, Reply = "graph", "count", Count
    tenant: Tenant


# --- metering ---------------------------------------------------------------------------------------


class Meter(Message):
    """A meter's total for one day (`YYYY-MM-DD`, UTC), or one hour of it (`YYYY-MM-DDTHH:00Z`)."""

    day: str
    meter: str
    total: int


class Usage(Message):
    """Totals by meter over the range, and day by day, or hour by hour where that was asked for."""

    tenant: Tenant
    totals: dict[str, int]
    days: tuple[Meter, ...]


class GetUsage(Question[Usage]):
    """A tenant's usage from day `since` to day `until`, both inclusive. Answered by metering."""

    service, verb, Reply = "metering", "usage", Usage
    tenant: Tenant
    since: str | None = None
    until: str | None = None
    meter: str | None = None
    by: Literal["day", "hour"] = "day"


UsageFormat = Literal["csv", "parquet"]


class UsageExport(Message):
    """A usage export that lies ready, to be read piece by piece with `ReadUsageExport`. `size` is in bytes."""

    id: str
    size: int


class ExportUsage(Question[UsageExport]):
    """Have a tenant's usage written down, in the order of time: by `day`, by `hour`, or every `event`.

    Columns are tenant, period (or the event's time and id), meter, and amount. Answered by metering, which keeps the
    export for ten minutes. A repeat makes another one.
    """

    service, verb, Reply = "metering", "export", UsageExport
    tenant: Tenant
    format: UsageFormat = "csv"
    by: Literal["day", "hour", "event"] = "hour"
    since: str | None = None
    until: str | None = None


class UsagePiece(Message):
    """A piece of an export; an empty one stands behind its end."""

    data: bytes


class ReadUsageExport(Question[UsagePiece]):
    """The piece of a tenant's export that begins at `offset`. Answered by metering; `NotFound` where it is gone."""

    service, verb, Reply = "metering", "export-piece", UsagePiece
    tenant: Tenant
    id: str
    offset: int = Field(ge=0)


class UsageDifference(Message):
    """A total that the ledger has otherwise than the streams give it."""

    tenant: str
    day: str
    meter: str
    ledger: int
    streams: int


class Reconciliation(Message):
    """How a comparison of the ledger with the streams stands, or ended.

    Compared are all charges whose facts and usage events the streams still hold. `from_log` and `from_usage` are the
    first sequences they hold, `log` and `usage` the last that were compared, `charges` how many charges that were.
    `untold` are changes of memories whose beginning the log no longer holds; they are left out, and so are `erased`
    tenants, of which something was erased. `differences` lists at most 100, `different` counts all.
    """

    state: Literal["idle", "running", "done", "failed"]
    started_at: Moment | None = None
    ended_at: Moment | None = None
    reason: str | None = None
    read: int = 0
    last: int = 0
    from_log: int = 0
    log: int = 0
    from_usage: int = 0
    usage: int = 0
    charges: int = 0
    untold: int = 0
    erased: int = 0
    different: int = 0
    differences: tuple[UsageDifference, ...] = ()


class ReconcileUsage(Question[Reconciliation]):
    """How the last comparison stands; `begin` starts one, unless one is under way. Answered by metering."""

    service, verb, Reply = "metering", "reconcile", Reconciliation
    begin: bool = False


class Standing(Message):
    """What a tenant has and has used today, by the names of its quotas. `resets_at` is the end of this day."""

    tenant: Tenant
    used: dict[str, int]
    resets_at: Moment


class GetStanding(Question[Standing]):
    """Where a tenant stands with its quotas, as far as the ledger has counted. Answered by metering."""

    service, verb, Reply = "metering", "standing", Standing
    tenant: Tenant


class Heads(Message):
    """The last records of audit chains, as the ledger knows them."""

    heads: tuple[Head, ...]


class ListHeads(Question[Heads]):
    """The ends of all audit chains, or of one tenant's (`_system`: the installation's). Answered by metering."""

    service, verb, Reply = "metering", "audit-heads", Heads
    tenant: str | None = None


# --- every service ----------------------------------------------------------------------------------


class Check(Message):
    """One dependency of a service: whether it works, and what is wrong if not."""

    ok: bool
    detail: str | None = None


class Pong(Message):
    """A running instance of a service and how it does."""

    service: str
    instance: str
    version: str
    pid: int
    uptime_s: float
    rss_bytes: int
    cpu_s: float
    ready: bool
    checks: dict[str, Check]
    metrics_url: str | None = None


QUESTIONS: tuple[type[Question[Any]], ...] = (
    EmbedQuery, Recall, FindIndexed, CountIndexed, PackContext, GetMemory, GetHistory, ListMemories, GetNode, ListNodes,
    Neighbours, FindPath, Activate, Walk, FindJob, CountRecorded, GetUsage, ExportUsage, ReadUsageExport,
    ReconcileUsage, GetStanding, ListHeads,
)  # fmt: skip
