"""Server-sent events as the door sends them: what each holds, and from where to go on after a break. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from httpx_sse import ServerSentEvent

from engram_contracts.answers import AcceptedQuestion, Job, Refusal
from engram_contracts.errors import FAMILY, Internal
from engram_contracts.live import JOB_EVENTS, THINK_EVENTS
from engram_contracts.messages import Message


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream: its name, what it holds, and the id from which one can go on behind it."""

    name: str
    data: Message
    id: str | None = None


def read(sent: ServerSentEvent, kinds: Mapping[str, type[Message]]) -> Event | None:
    """The event, or nothing where it is of a kind this release does not know. Raises the error it tells of."""
    kind = kinds.get(sent.event)
    if kind is None:
        return None
    data = kind.model_validate_json(sent.data)
    if isinstance(data, Refusal):
        raise FAMILY.get(data.code, Internal)(data.message, retry_after=data.retry_after)
    return Event(sent.event, data, sent.id or None)


@dataclass(slots=True)
class Thinking:
    """A question whose answer is streamed, over as many connections as it takes.

    The question itself is sent until it was accepted; after a break its job is followed.
    """

    question: dict[str, Any]
    job: str | None = None
    over: bool = False
    kinds: Mapping[str, type[Message]] = field(default_factory=lambda: THINK_EVENTS)

    def take(self, sent: ServerSentEvent) -> Event | None:
        """The next event for who asked; a job's last one is the answer it holds."""
        event = read(sent, self.kinds)
        if event is None:
            return None
        if isinstance(event.data, AcceptedQuestion):
            self.job, self.kinds = event.data.job, THINK_EVENTS
        self.over = event.name == "done"
        if isinstance(event.data, Job):
            return Event("done", event.data.thought) if self.over and event.data.thought else None
        return event

    def instead(self) -> dict[str, str]:
        """What to ask for in place of the question: once it was accepted, its job."""
        if self.job is None:
            return {}
        self.kinds = JOB_EVENTS
        return {"method": "GET", "url": f"/v1/jobs/{self.job}/events"}
