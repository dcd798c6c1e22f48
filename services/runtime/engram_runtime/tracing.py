"""One request's way through all services, step by step (W3C Trace Context).

Where nobody traces, a step costs a look at a context variable. Several messages of a batch may be traced at once:
then each step belongs to all of their traces.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from types import TracebackType
from typing import Any, ParamSpec, Protocol, Self, TypeVar

from engram_contracts.errors import EngramError
from engram_contracts.tracing import Kind, Value

TRACEPARENT = "traceparent"
Attributes = Mapping[str, Value]
P = ParamSpec("P")
T = TypeVar("T")

_SAMPLED = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f][13579bdf]", re.ASCII)
_WHERE = slice(3, 35)
"""The trace id in a traceparent."""


class Span(Protocol):
    """One step under way. `traceparent` is how it is told to whoever goes on with it."""

    @property
    def traceparent(self) -> str:
        """Version, trace id, span id and flags (W3C Trace Context, section 3.2)."""

    def set(self, attributes: Attributes) -> None:
        """Add what is known by now."""

    def fail(self, error: str) -> None:
        """It did not go well; `error` is the kind of what went wrong."""

    def end(self) -> None:
        """It is over."""


class Tracer(Protocol):
    """Makes spans and sends them on."""

    def begin(
        self, name: str, kind: Kind, parent: str | None, attributes: Attributes, at: datetime | None = None
    ) -> Span | None:
        """A span that begins now, or at a time; below `parent` (a traceparent). `None` where it is not sampled."""


_current: ContextVar[tuple[Span, ...]] = ContextVar("spans", default=())


class _Process:
    tracer: Tracer | None = None


@contextlib.contextmanager
def using(tracer: Tracer) -> Iterator[None]:
    """Have this process's spans made by `tracer` while the context is open."""
    before, _Process.tracer = _Process.tracer, tracer
    try:
        yield
    finally:
        _Process.tracer = before


class Step:
    """Some spans as a context: what happens in it is part of them. An error that leaves it is theirs."""

    def __init__(self, spans: Sequence[Span] = ()) -> None:
        self._spans = tuple(spans)

    def set(self, attributes: Attributes) -> None:
        """Add to every span what is known by now."""
        for span in self._spans:
            span.set(attributes)

    def fail(self, error: str) -> None:
        """Say of every span that it did not go well."""
        for span in self._spans:
            span.fail(error)

    @property
    def trace_id(self) -> str | None:
        """The trace this is a step of, where there is one."""
        return self._spans[0].traceparent[_WHERE] if self._spans else None

    def __enter__(self) -> Self:
        self._token = _current.set(self._spans)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _current.reset(self._token)
        for span in self._spans:
            if error is not None:
                span.fail(error_type(error))
            span.end()


class Handling(Step):
    """The handling of messages of which those at `places` are traced."""

    def __init__(self, spans: Sequence[Span] = (), places: Sequence[int] = ()) -> None:
        super().__init__(spans)
        self._places = places

    def came_to(self, outcomes: Sequence[Exception | None]) -> None:
        """Note what each message came to, in their order."""
        for span, place in zip(self._spans, self._places, strict=True):
            if (outcome := outcomes[place]) is not None:
                span.fail(error_type(outcome))


class _Nothing(Handling):
    """The step of what is not traced."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None


NOTHING = _Nothing()


def step(name: str, kind: Kind = "internal", attributes: Attributes | None = None) -> Step:
    """A step of whatever is traced here."""
    parents = _current.get()
    if not parents or _Process.tracer is None:
        return NOTHING
    return Step(_begun(name, kind, [span.traceparent for span in parents], attributes or {}))


def traced(
    name: str, kind: Kind = "internal", attributes: Attributes | None = None
) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], Callable[P, Coroutine[Any, Any, T]]]:
    """Make every call of an async function a step."""

    def wrap(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        @functools.wraps(function)
        async def call(*args: P.args, **named: P.kwargs) -> T:
            if not _current.get():
                return await function(*args, **named)
            with step(name, kind, attributes):
                return await function(*args, **named)

        return call

    return wrap


def entered(name: str, traceparent: str | None, attributes: Callable[[], Attributes]) -> Step:
    """The first step of a request in this system: goes on with the caller's trace, or is sampled as a new one."""
    if _Process.tracer is None:
        return NOTHING
    span = _Process.tracer.begin(name, "server", traceparent, attributes())
    return Step([span]) if span else NOTHING


class Traced(Protocol):
    """A message that may be part of a trace, and since when it lay in its stream."""

    @property
    def trace(self) -> str | None:
        """The traceparent that it came with."""

    @property
    def at(self) -> datetime:
        """When the stream took it."""


def processing(stage: str, consumer: str, stream: str, messages: Sequence[Traced]) -> Handling:
    """The handling of messages by a stage, and how long each of them waited for it in its stream."""
    tracer = _Process.tracer
    if tracer is None or not (places := [n for n, each in enumerate(messages) if is_sampled(each.trace)]):
        return NOTHING
    about = {**_messaging("process", "process", stream, consumer), "engram.stage": stage}
    parents = [messages[place].trace for place in places]
    for place in places:
        if waited := tracer.begin(f"wait {stream}", "internal", messages[place].trace, about, messages[place].at):
            waited.end()
    many: Attributes = {"messaging.batch.message_count": len(messages)} if len(messages) > 1 else {}
    return Handling(_begun(f"process {stream}", "consumer", parents, {**about, **many}), places)


def publishing(subject: str, count: int = 1) -> Step:
    """The publishing of messages to a stream, until the broker has them."""
    if not _current.get():
        return NOTHING
    stream = stream_of(subject)
    many: Attributes = {"messaging.batch.message_count": count} if count > 1 else {}
    return step(f"publish {stream}", "producer", {**_messaging("publish", "send", stream, None), **many})


def asking(service: str, verb: str) -> Step:
    """The asking of a question, until its answer is there (semantic conventions for RPC)."""
    if not _current.get():
        return NOTHING
    return step(f"ask {service}.{verb}", "client", _rpc(service, verb))


def answering(service: str, verb: str, traceparent: str | None) -> Step:
    """The answering of a question that came with `traceparent`."""
    if _Process.tracer is None or not is_sampled(traceparent):
        return NOTHING
    return Step(_begun(f"answer {service}.{verb}", "server", [traceparent], _rpc(service, verb)))


def traceparent() -> str | None:
    """How the step that is under way is told to another process; `None` where nothing is traced."""
    spans = _current.get()
    return spans[0].traceparent if spans else None


def onward(trace: str | None) -> str | None:
    """What a message says that follows from one with `trace`: the step of that trace that is under way here."""
    if trace is None:
        return None
    same = (span.traceparent for span in _current.get() if span.traceparent[_WHERE] == trace[_WHERE])
    return next(same, trace)


def trace_id() -> str | None:
    """The trace of what is being handled; the first where there are several."""
    spans = _current.get()
    return spans[0].traceparent[_WHERE] if spans else None


def is_sampled(traceparent: str | None) -> bool:
    """Whether this is a traceparent, and its trace is recorded."""
    return traceparent is not None and _SAMPLED.fullmatch(traceparent) is not None


def error_type(error: BaseException) -> str:
    """The kind of an error, as spans and metrics tell it: never its words, which may repeat what was sent."""
    return error.code if isinstance(error, EngramError) else type(error).__name__


def stream_of(subject: str) -> str:
    """The stream that takes a subject, by the second token that all of them are named for."""
    return f"ENGRAM_{subject.split('.', 2)[1].upper()}"


def _begun(name: str, kind: Kind, parents: Sequence[str | None], attributes: Attributes) -> list[Span]:
    assert _Process.tracer is not None
    begun = [_Process.tracer.begin(name, kind, parent, attributes) for parent in parents]
    return [span for span in begun if span is not None]


def _rpc(service: str, verb: str) -> Attributes:
    return {"rpc.system.name": "nats", "rpc.method": f"{service}.{verb}"}


def _messaging(operation: str, kind: str, stream: str, consumer: str | None) -> dict[str, Value]:
    """What is told of messages (semantic conventions for messaging)."""
    group: dict[str, Value] = {"messaging.consumer.group.name": consumer} if consumer else {}
    return {
        "messaging.system": "nats",
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "messaging.destination.name": stream,
        **group,
    }
