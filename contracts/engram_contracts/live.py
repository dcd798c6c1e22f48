"""What the door sends while it happens, and what is said on its WebSocket.

A stream of server-sent events has the name of each event and its data as JSON; a WebSocket has the same names and data
in messages of type `frame`. Ids of a tenant's events are sequences of the LOG: who comes back with the last one it saw
is told everything behind it, once.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from engram_contracts.answers import AcceptedQuestion, Job, Refusal, Thoughts
from engram_contracts.facts import Citation, ModelUse
from engram_contracts.memory import Scope
from engram_contracts.messages import Message, Moment, Strict

# --- what becomes of one command --------------------------------------------------------------------------------


class Token(Message):
    """A piece of an answer, as the model made it. `index` counts the pieces of one try from 0.

    Marks of memories in it are not checked yet; those of the whole answer are.
    """

    text: str
    index: int


class Retrying(Message):
    """A try failed, and another follows: what was streamed of the answer so far does not count."""

    reason: str
    attempt: int | None = None
    next_at: Moment | None = None


class Missed(Message):
    """Pieces of the answer that this stream did not get, such as those before it began; `done` has the whole."""

    pieces: int | None = None


class Citations(Message):
    """The memories that an answer rests on."""

    citations: tuple[Citation, ...]


THINK_EVENTS: dict[str, type[Message]] = {
    "accepted": AcceptedQuestion,
    "token": Token,
    "missed": Missed,
    "retry": Retrying,
    "citations": Citations,
    "usage": ModelUse,
    "done": Thoughts,
    "error": Refusal,
}
"""Events of a question that is streamed, in this order; it ends with `done` or `error`."""


class Reached(Message):
    """A command reached a stage."""

    stage: str
    at: Moment


JOB_EVENTS: dict[str, type[Message]] = {
    "job": Job,
    "progress": Reached,
    **{name: THINK_EVENTS[name] for name in ("token", "missed", "retry", "citations", "usage")},
    "done": Job,
    "error": Refusal,
}
"""Events of a job: how it stands, then what happens to it, then how it ended."""

# --- what happens to a tenant's memory ----------------------------------------------------------------------------

HappeningKind = Literal[
    "remembered", "revised", "forgotten", "judged", "thought", "linked",
    "node-put", "node-dropped", "edge-put", "edge-dropped",
]  # fmt: skip


class EventFilter(Strict):
    """Narrows to some of a tenant's events; every given field must hold.

    What is about no memory has no user, agent or session, and so is left out where one is asked for; likewise a change
    whose memory was not known to who published it.
    """

    kinds: tuple[HappeningKind, ...] = Field(default=(), max_length=10)
    user_id: Scope | None = None
    agent_id: Scope | None = None
    session_id: Scope | None = None

    def takes(self, happening: Happening) -> bool:
        """Whether an event is among those wanted."""
        return (not self.kinds or happening.event in self.kinds) and all(
            wanted is None or wanted == given
            for wanted, given in (
                (self.user_id, happening.user_id),
                (self.agent_id, happening.agent_id),
                (self.session_id, happening.session_id),
            )
        )


class Happening(Message):
    """A change of a tenant's memory that took effect. `data` is the fact as it lies on the log, without vectors."""

    sequence: int
    event: HappeningKind
    at: Moment
    command: str
    actor: str | None = None
    memory_id: str | None = None
    user_id: str | None = None
    agent_id: str | None = None
    session_id: str | None = None
    data: dict[str, Any]


class Opened(Message):
    """Where a stream of events begins: everything behind `position` follows."""

    position: int


class Lost(Message):
    """Events behind `after` are older than the log, which begins at `first`: some may be missing here."""

    after: int
    first: int


TENANT_EVENTS: dict[str, type[Message]] = {
    "open": Opened,
    "lost": Lost,
    **dict.fromkeys(HappeningKind.__args__, Happening),  # type: ignore[attr-defined]  # of a Literal
}

# --- the WebSocket --------------------------------------------------------------------------------------------------

CLOSE_CODES: dict[int, str] = {
    1000: "the client said goodbye",
    1001: "the door is leaving; connect again",
    1009: "a message was too large",
    4400: "a message could not be understood",
    4401: "no key, token or ticket that counts, or not any more",
    4403: "the tenant is suspended, or the key may not do this",
    4408: "nothing was heard from the client for too long",
    4429: "too many connections or requests at once",
    4480: "the client reads too slowly; connect again and resume",
    4503: "a part that is needed is away; try again",
}
"""Why the door closes a WebSocket."""

CallId = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[\x21-\x7e]+$")]
IdempotencyKey = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$")]
Body = dict[str, Any]


class Hello(Strict):
    """The first message, where the request that opened the WebSocket had no key: a `key` or token, or a `ticket`."""

    type: Literal["hello"] = "hello"
    key: Annotated[str, StringConstraints(min_length=1, max_length=8_192)] | None = None
    ticket: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None
    tenant: str | None = None


class Asked(Strict):
    """Base of what a client asks for under an `id` of its own, which the answer carries.

    `operation` names the operation of the route table that serves it, with the same permission, limits and metering as
    over HTTP; `idempotency_key`, `prefer` and `deadline` are what the headers of those names say there.
    """

    operation: ClassVar[str]
    id: CallId
    idempotency_key: IdempotencyKey | None = None
    prefer: Annotated[str, StringConstraints(max_length=200)] | None = None
    deadline: Moment | None = None


class AskRemember(Asked):
    """Keep one memory, or many; the body is that of `POST /v1/memories`."""

    operation = "remember"
    type: Literal["remember"] = "remember"
    body: Body
    wait: Literal["indexed", "done"] | None = None


class AskRecall(Asked):
    """Find memories; the body is that of `POST /v1/recall`."""

    operation = "recall"
    type: Literal["recall"] = "recall"
    body: Body


class AskThink(Asked):
    """Answer a question; the body is that of `POST /v1/think`. With `stream`, frames come ahead of the answer."""

    operation = "think"
    type: Literal["think"] = "think"
    body: Body
    stream: bool = False


class AskFeedback(Asked):
    """Say how a memory served; the body is that of `POST /v1/memories/{id}/feedback`."""

    operation = "judge"
    type: Literal["feedback"] = "feedback"
    memory_id: Annotated[str, StringConstraints(max_length=128)]
    body: Body
    wait: Literal["indexed", "done"] | None = None


class AskForget(Asked):
    """Forget a memory."""

    operation = "forget"
    type: Literal["forget"] = "forget"
    memory_id: Annotated[str, StringConstraints(max_length=128)]
    wait: Literal["indexed", "done"] | None = None


class AskStatus(Asked):
    """Show how far a job has come; with `stream`, frames tell what happens to it until it ends."""

    operation = "get_job"
    type: Literal["status"] = "status"
    job: Annotated[str, StringConstraints(max_length=256)]
    stream: bool = False


class Subscribe(Asked):
    """Have the tenant's events sent as frames under this id: from now on, or from behind the sequence `after`."""

    operation = "events"
    type: Literal["subscribe"] = "subscribe"
    filter: EventFilter = EventFilter()
    after: Annotated[int, Field(ge=0)] | None = None


class Stop(Strict):
    """End a subscription or a stream; what was accepted goes on."""

    type: Literal["stop"] = "stop"
    id: CallId


class Ping(Strict):
    """Answered with `pong`, for clients that cannot send pings of the protocol."""

    type: Literal["ping"] = "ping"


ClientMessage = Annotated[
    AskRemember | AskRecall | AskThink | AskFeedback | AskForget | AskStatus | Subscribe | Stop | Ping,
    Field(discriminator="type"),
]
"""Everything a client may say behind `hello`."""


class Welcome(Message):
    """The door knows who speaks."""

    type: Literal["welcome"] = "welcome"
    tenant: str
    role: str
    heartbeat_seconds: float
    """The door pings this often; a client that is silent for twice as long is closed."""


class Answered(Message):
    """The answer under a client's id: status, and the envelope `{data, meta, error}` as over HTTP."""

    type: Literal["answer"] = "answer"
    id: str
    status: int
    body: dict[str, Any]


class Framed(Message):
    """An event of a stream or subscription under a client's id."""

    type: Literal["frame"] = "frame"
    id: str
    event: str
    data: dict[str, Any]


class Stopped(Message):
    """A stream or subscription has ended."""

    type: Literal["stopped"] = "stopped"
    id: str


class Pong(Message):
    """The answer to `ping`."""

    type: Literal["pong"] = "pong"


class Failed(Message):
    """A message that could not be understood; `id` where it had one."""

    type: Literal["error"] = "error"
    id: str | None = None
    error: Refusal


DoorMessage = Annotated[Welcome | Answered | Framed | Stopped | Pong | Failed, Field(discriminator="type")]
"""Everything the door says on a WebSocket."""


class Ticket(Message):
    """Opens one WebSocket, once, until `expires_at`: `GET /v1/ws?ticket=...`, or in `hello`."""

    ticket: str
    expires_at: Moment
