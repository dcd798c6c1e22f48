"""The AsyncAPI 3 document of the messages on NATS, made from the contracts and the topology. Pure.

It speaks for Engram: what it `receive`s are commands and questions, what it `send`s are facts, events and records.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic.json_schema import models_json_schema

from engram_contracts.catalogue import PARAMETERS, Entry, catalogue
from engram_contracts.errors import Failure
from engram_contracts.ids import derived_id
from engram_contracts.messages import Message, Versioned
from engram_contracts.recovery import SYSTEM
from engram_contracts.sampling import COMMAND, sampled
from engram_contracts.topology import CONSUMERS, DEAD, Stream, log_subject, work_subject

Json = dict[str, Any]

VERSION = "3.0.0"
TENANT = "default"
WORDS = """\
Durable memory for AI agents, by messages. Publish a command to JetStream and wait for its acknowledgement: then it is
safe. The `Nats-Msg-Id` header, equal to the command's `id`, makes a repeat harmless. A refusal of the stream (10077)
means that too much is waiting: "per subject" in its text speaks of this tenant, any other of all. What cannot be
handled is laid on `engram.dead.{stage}.{tenant}` with the reason in its headers. Questions are plain requests; an
answer with the header `Engram-Failed` is a `Failure`. Unknown fields are passed over, so that old and new may meet.
"""
TEXT: Json = {"type": "string"}
HEADERS: dict[str, Json] = {
    "Nats-Msg-Id": {**TEXT, "description": "The command's id, or the fact's: a repeat within two minutes is dropped."},
    "Engram-Correlation": {**TEXT, "description": "The sender's name for what this belongs to; handed on to all."},
    "traceparent": {**TEXT, "description": "W3C trace context."},
    "Engram-Failed": {**TEXT, "description": "There where the answer is a `Failure`."},
}
DEAD_HEADERS: dict[str, str] = {
    "Subject": "where the message was sent",
    "Stream": "the stream it lay on",
    "Sequence": "where it lay",
    "Stage": "where it failed",
    "Why": "`never` (it cannot succeed) or `worn out`",
    "Code": "the error's code",
    "Error": "the error's class",
    "Reason": "what went wrong, in one line",
    "Attempts": "how often it was tried",
    "First": "when it first came",
    "Last": "when it failed last",
}


def document(version: str) -> Json:
    """The whole document. The same contracts always give the same."""
    entries = catalogue()
    schemas, definitions = _schemas(entries)
    return {
        "asyncapi": VERSION,
        "info": {
            "title": "Engram",
            "version": version,
            "description": WORDS,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"nats": {"host": "127.0.0.1:4222", "protocol": "nats", "protocolVersion": "2.14"}},
        "channels": {**{_channel_id(one): _channel(one) for one in entries}, **_replies(entries), **_dead_channel()},
        "operations": {**{one.name: _operation(one) for one in entries}, **_dead_operation()},
        "components": {
            "messages": _messages(entries, schemas, definitions),
            "schemas": {**definitions},
        },
    }


def headers(entry: Entry) -> Json:
    """The schema of a message's headers."""
    wanted = {"Engram-Correlation", "traceparent"} | ({"Nats-Msg-Id"} if entry.stream else set())
    found = {name: HEADERS[name] for name in HEADERS if name in wanted}
    return {
        "type": "object",
        "properties": found,
        **({"required": ["Nats-Msg-Id"]} if entry.family == "command" else {}),
    }


def example(entry: Entry) -> Json:
    """A message of tenant `default` as it is published: subject, headers and payload."""
    payload = _example(entry.kind)
    sent = {"Engram-Correlation": "chat-7"}
    if entry.stream is not None:
        sent["Nats-Msg-Id"] = str(payload.get("id") or payload.get("command") or COMMAND)
    return {"subject": subject(entry), "headers": sent, "payload": payload}


def subject(entry: Entry) -> str:
    """Where a message of tenant `default` goes."""
    if entry.family == "command":
        *_, name, tenant = entry.address.split(".")
        return work_subject(SYSTEM if tenant == SYSTEM else TENANT, name)
    if entry.family == "fact":
        return log_subject(TENANT, entry.address.split(".")[4])
    return re.sub(r"{(\w+)}", lambda found: PARAMETERS[found[1]][2], entry.address)


@cache
def _example(kind: type[Message]) -> Json:
    schema = kind.model_json_schema()
    made: Json = sampled(schema, schema.get("$defs", {}))
    for name in {"id", "command"} & made.keys() if issubclass(kind, Versioned) else ():
        made[name] = derived_id("example", kind.__name__)  # commands of their own, which no stream takes for repeats
    return made


# --- channels and operations --------------------------------------------------------------------------------


def _channel_id(entry: Entry) -> str:
    return re.sub(r"\.{\w+}", "", entry.address).removeprefix("engram.")


def _channel(entry: Entry) -> Json:
    return {
        "address": entry.address,
        "description": _summary(entry.kind),
        "messages": {entry.name: {"$ref": f"#/components/messages/{entry.name}"}},
        **_parameters(entry.address),
        **({"x-jetstream-stream": _stream(entry.stream)} if entry.stream else {}),
    }


def _parameters(address: str) -> Json:
    found = {name: PARAMETERS[name] for name in re.findall(r"{(\w+)}", address)}
    made = {
        name: {"description": said, "examples": [example], **({"enum": list(values)} if values else {})}
        for name, (said, values, example) in found.items()
    }
    return {"parameters": made} if made else {}


def _stream(stream: Stream) -> Json:
    """What the stream is, in JetStream's own words; `-1` is no limit, times are seconds."""
    return {
        "name": stream.name,
        "subjects": list(stream.subjects),
        "retention": stream.retention,
        "discard": stream.discard,
        "max_msgs": stream.max_messages,
        "max_bytes": stream.max_bytes,
        "max_age": stream.max_age,
        "max_msgs_per_subject": stream.per_subject,
        "max_msg_size": stream.max_message,
        "duplicate_window": stream.duplicate_window,
    }


def _consumers(entry: Entry) -> list[Json]:
    """Who works a message off, and how."""
    wanted = subject(entry)
    return [
        {
            "durable": consumer.name,
            "filter_subjects": list(consumer.filters),
            "ack_wait": consumer.ack_wait,
            "max_ack_pending": consumer.max_ack_pending,
            "attempts": consumer.retry.attempts,
        }
        for consumer in CONSUMERS
        if consumer.stream is entry.stream and any(_matches(pattern, wanted) for pattern in consumer.filters)
    ]


def _matches(pattern: str, wanted: str) -> bool:
    form = re.escape(pattern).replace(r"\*", r"[^.]+").replace(">", ".+")
    return re.fullmatch(form, wanted) is not None


def _operation(entry: Entry) -> Json:
    channel = _channel_id(entry)
    made: Json = {
        "action": "receive" if entry.family in ("command", "question") else "send",
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": _summary(entry.kind),
        "messages": [{"$ref": f"#/channels/{channel}/messages/{entry.name}"}],
    }
    if entry.stream is not None:
        made["x-jetstream-consumers"] = _consumers(entry)
    permission = getattr(entry.kind, "permission", None)
    if permission is not None:
        made["x-permission"] = permission
    return {**made, **_answered(entry)}


def _answered(entry: Entry) -> Json:
    if entry.reply is None:
        return {}
    names = (entry.reply.__name__, Failure.__name__)
    channel = f"reply.{_channel_id(entry).removeprefix('rpc.')}"
    return {
        "bindings": {"nats": {"queue": entry.address.split(".")[2], "bindingVersion": "0.1.0"}},
        "reply": {
            "channel": {"$ref": f"#/channels/{channel}"},
            "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in names],
        },
    }


def _replies(entries: tuple[Entry, ...]) -> Json:
    """Answers go to the inbox that the request names."""
    return {
        f"reply.{_channel_id(entry).removeprefix('rpc.')}": {
            "address": None,
            "messages": {
                kind.__name__: {"$ref": f"#/components/messages/{kind.__name__}"} for kind in (entry.reply, Failure)
            },
        }
        for entry in entries
        if entry.reply is not None
    }


def _dead_channel() -> Json:
    address = "engram.dead.{stage}.{tenant}"
    return {
        "dead": {
            "address": address,
            "description": "What could not be handled: the original bytes, and why in the headers.",
            "messages": {"DeadLetter": {"$ref": "#/components/messages/DeadLetter"}},
            **_parameters(address),
            "x-jetstream-stream": _stream(DEAD),
        }
    }


def _dead_operation() -> Json:
    messages = [{"$ref": "#/channels/dead/messages/DeadLetter"}]
    return {"bury": {"action": "send", "channel": {"$ref": "#/channels/dead"}, "messages": messages}}


# --- messages -----------------------------------------------------------------------------------------------


def _messages(entries: tuple[Entry, ...], schemas: Mapping[Any, Json], definitions: Mapping[str, Json]) -> Json:
    made = {entry.name: _message(entry, schemas) for entry in entries}
    replies = {kind.__name__: kind for entry in entries for kind in (entry.reply, Failure) if kind is not None}
    for name, kind in sorted(replies.items()):
        made.setdefault(name, _reply(kind, schemas))
    return {**made, "DeadLetter": _dead_message()}


def _message(entry: Entry, schemas: Mapping[Any, Json]) -> Json:
    shown = example(entry)
    return {
        **_described(entry.kind),
        "headers": headers(entry),
        "correlationId": {"location": "$message.header#/Engram-Correlation"},
        "payload": schemas[entry.kind, "validation"],
        "examples": [{"name": entry.name, "headers": shown["headers"], "payload": shown["payload"]}],
    }


def _reply(kind: type[Message], schemas: Mapping[Any, Json]) -> Json:
    failed = {"headers": {"type": "object", "properties": {"Engram-Failed": HEADERS["Engram-Failed"]}}}
    return {
        **_described(kind),
        **(failed if kind is Failure else {}),
        "payload": schemas[kind, "validation"],
        "examples": [{"name": kind.__name__, "payload": _example(kind)}],
    }


def _dead_message() -> Json:
    properties = {f"Engram-Dead-{name}": {**TEXT, "description": said} for name, said in DEAD_HEADERS.items()}
    return {
        "name": "DeadLetter",
        "summary": "What could not be handled. Headers it came with are kept as `Engram-Original-<name>`.",
        "headers": {"type": "object", "properties": properties, "required": list(properties)},
        "payload": {"description": "The original bytes."},
    }


def _described(kind: type[Message]) -> Json:
    said = inspect.getdoc(kind) or ""
    return {
        "name": kind.__name__,
        "title": kind.__name__,
        "summary": _summary(kind),
        "description": said,
        "contentType": "application/json",
    }


def _summary(kind: type[Message]) -> str:
    said = " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())
    return re.split(r"(?<=\.)\s", said)[0]


def _schemas(entries: tuple[Entry, ...]) -> tuple[Mapping[Any, Json], dict[str, Json]]:
    kinds = dict.fromkeys([kind for entry in entries for kind in (entry.kind, entry.reply) if kind] + [Failure])
    made, whole = models_json_schema(
        [(kind, "validation") for kind in kinds], ref_template="#/components/schemas/{model}"
    )
    definitions: dict[str, Json] = _without_discriminators(whole.get("$defs", {}))
    return made, definitions


def _without_discriminators(schema: Any) -> Any:
    """The same without hints in OpenAPI's form, which AsyncAPI has in another; `oneOf` says it all."""
    if isinstance(schema, list):
        return [_without_discriminators(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    hint = isinstance(schema.get("discriminator"), dict)
    return {
        name: _without_discriminators(value) for name, value in schema.items() if not (hint and name == "discriminator")
    }
