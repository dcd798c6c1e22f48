"""Every message there is and where it goes, found in this package: a new one is in it by being declared."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import engram_contracts
from engram_contracts.commands import Command
from engram_contracts.events import Event
from engram_contracts.facts import Fact, UsageBatch
from engram_contracts.ids import PARTITIONS
from engram_contracts.messages import Message
from engram_contracts.questions import Question
from engram_contracts.recovery import SYSTEM
from engram_contracts.sampling import COMMAND
from engram_contracts.topology import AUDIT, CONSUMERS, LANES, LOG, TRACES, USAGE, WORK, Stream
from engram_contracts.tracing import SpanBatch
from engram_contracts.trail import AuditPage

Family = Literal["command", "fact", "event", "question", "record"]

ADDRESSES: dict[Family, str] = {
    "command": "engram.work.{lane}.<op>.{tenant}",
    "fact": "engram.log.{partition}.{tenant}.<event>",
    "event": "engram.event.{tenant}.<event>",
}
RECORDS: tuple[tuple[type[Message], str, Stream], ...] = (
    (UsageBatch, "engram.usage.{door}", USAGE),
    (AuditPage, "engram.audit.{tenant}", AUDIT),
    (SpanBatch, "engram.trace.{trace}", TRACES),
)
"""What services write for each other on streams of their own."""

PARAMETERS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "lane": (
        "`i<n>` for what somebody waits for, `b<n>` for bulk; n = (crc32(tenant) >> 16) mod 8.",
        tuple(lane for lanes in LANES.values() for lane in lanes),
        "i0",
    ),
    "partition": (f"crc32(tenant) mod {PARTITIONS}.", tuple(map(str, range(PARTITIONS))), "0"),
    "tenant": ("The tenant's name. The broker's permissions say who may use which.", (), "default"),
    "door": ("The door that wrote it.", (), "door-1"),
    "trace": ("The id of the trace, 32 hexadecimal digits.", (), "0af7651916cd43dd8448eb211c80319c"),
    "command": ("The id of the command that it is about.", (), COMMAND),
    "stage": ("Where it failed: the consumer's service.", (), "embedder"),
    "credential": ("Which credential sent it; the broker puts it in.", (), "k1"),
}
"""What the parts of addresses mean, the values they may have where these are few, and an example."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One message: its family, where it is sent, and on which stream it lies, if on any."""

    kind: type[Message]
    family: Family
    address: str
    stream: Stream | None = None

    @property
    def name(self) -> str:
        """Its class, which names it in every document."""
        return self.kind.__name__

    @property
    def reply(self) -> type[Message] | None:
        """What answers a question."""
        return self.kind.Reply if issubclass(self.kind, Question) else None


def catalogue() -> tuple[Entry, ...]:
    """All messages, families together, by name."""
    for module in pkgutil.iter_modules(engram_contracts.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"engram_contracts.{module.name}")
    return (
        *_named(Command, "command", "op", WORK),
        *_named(Fact, "fact", "event", LOG),
        *_named(Event, "event", "event", None),
        *sorted(_questions(), key=lambda entry: entry.address),
        *(Entry(kind, "record", address, stream) for kind, address, stream in RECORDS),
    )


def _named(base: type[Message], family: Family, word: str, stream: Stream | None) -> list[Entry]:
    found = [kind for kind in _below(base) if word in vars(kind)]
    entries = [Entry(kind, family, _address(family, getattr(kind, word) + _about(kind)), stream) for kind in found]
    return sorted(entries, key=lambda entry: entry.name)


def _address(family: Family, name: str) -> str:
    """Where messages of a name go; some are for the installation alone."""
    address = re.sub("<(op|event)>", name, ADDRESSES[family])
    asked = {pattern for consumer in CONSUMERS for pattern in consumer.filters}
    alone = family == "command" and f"engram.work.*.{name}.{SYSTEM}" in asked
    return address.replace("{tenant}", SYSTEM) if alone else address


def _about(kind: type[Message]) -> str:
    """The end of an event's address where it is about one command."""
    return ".{command}" if issubclass(kind, Event) and "about" in vars(kind) else ""


def _questions() -> Iterator[Entry]:
    kinds: list[type[Any]] = [kind for kind in _below(Question) if vars(kind).get("verb")]
    for kind in kinds:
        yield Entry(kind, "question", f"engram.rpc.{kind.service}.{kind.verb}")


def _below(base: type[Message]) -> Iterator[type[Message]]:
    """The classes of this package that derive from another, except forms of a generic one."""
    for kind in base.__subclasses__():
        if kind.__module__.startswith("engram_contracts.") and not kind.__pydantic_generic_metadata__["args"]:
            yield kind
        yield from _below(kind)
