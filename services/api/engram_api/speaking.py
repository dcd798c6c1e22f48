"""What is said on a WebSocket, as requests to the door and as frames of the protocol (RFC 6455). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from multidict import CIMultiDict, CIMultiDictProxy
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json
from yarl import URL

from engram_api.access import Caller
from engram_api.incoming import DEADLINE, Spoken
from engram_api.lines import Frame
from engram_api.routes import OPERATIONS, Operation
from engram_contracts.errors import Rejected
from engram_contracts.live import (
    AskFeedback,
    AskForget,
    AskRecall,
    AskRemember,
    AskStatus,
    AskThink,
    ClientMessage,
    Hello,
    Subscribe,
)
from engram_contracts.messages import Message

Ask = AskRemember | AskRecall | AskThink | AskFeedback | AskForget | AskStatus | Subscribe
MESSAGES: TypeAdapter[ClientMessage] = TypeAdapter(ClientMessage)
SERVED: Mapping[str, Operation] = {operation.name: operation for operation in OPERATIONS}

TEXT, PING, PONG = b"\x81", b"\x89", b"\x8a"
"""First byte of a whole message of each kind."""


def heard(text: str | bytes) -> ClientMessage:
    """The message in a client's text. Raises `Rejected`."""
    try:
        return MESSAGES.validate_json(text)
    except ValidationError as error:
        raise _not_understood(error) from error


def introduced(text: str | bytes) -> Hello:
    """The hello in a client's first text. Raises `Rejected`."""
    try:
        return Hello.model_validate_json(text)
    except ValidationError as error:
        raise _not_understood(error) from error


def _not_understood(error: ValidationError) -> Rejected:
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in problem["loc"]) or "message"
    return Rejected(f"{where}: {problem['msg']}", field=where)


def operation_of(ask: Ask) -> Operation:
    """The operation that serves a message."""
    if isinstance(ask, AskStatus) and ask.stream:
        return SERVED["follow_job"]
    return SERVED[ask.operation]


def request_of(ask: Ask, caller: Caller, *, remote: str | None, host: str) -> Spoken:
    """The request that a message stands for."""
    operation = operation_of(ask)
    named = {"id": _named(ask)} if "{id}" in operation.path else {}
    path = operation.path.replace("{id}", quote(named.get("id", ""), safe=""))
    return Spoken(
        method=operation.method,
        rel_url=URL(path, encoded=True).with_query(_query(ask)),
        headers=CIMultiDictProxy(CIMultiDict(_headers(ask))),
        match_info=named,
        body=to_json(ask.body) if isinstance(ask, AskRemember | AskRecall | AskThink | AskFeedback) else b"",
        remote=remote,
        host=host,
        streamed=isinstance(ask, AskThink | AskStatus) and ask.stream,
        caller=caller,
    )


def _named(ask: Ask) -> str:
    return ask.job if isinstance(ask, AskStatus) else getattr(ask, "memory_id", "")


def _query(ask: Ask) -> list[tuple[str, str]]:
    if isinstance(ask, Subscribe):
        chosen = ask.filter.model_dump(exclude_none=True)
        kinds = [("kind", kind) for kind in chosen.pop("kinds")]
        after = [("after", str(ask.after))] if ask.after is not None else []
        return [*kinds, *chosen.items(), *after]
    wait = getattr(ask, "wait", None)
    return [("wait", wait)] if wait else []


def _headers(ask: Ask) -> dict[str, str]:
    given = {"Idempotency-Key": ask.idempotency_key, "Prefer": ask.prefer}
    if ask.deadline is not None:
        given[DEADLINE] = ask.deadline.isoformat()
    return {name: value for name, value in given.items() if value is not None}


def framed(payload: bytes, kind: bytes = TEXT) -> bytes:
    """A whole message of the protocol, as servers send it: unmasked."""
    size = len(payload)
    if size < 126:
        return b"%b%c%b" % (kind, size, payload)
    if size < 65_536:
        return b"%b\x7e%b%b" % (kind, size.to_bytes(2, "big"), payload)
    return b"%b\x7f%b%b" % (kind, size.to_bytes(8, "big"), payload)


def said(message: Message) -> bytes:
    """A message of ours."""
    return framed(message.encode())


def answer(identity: str, status: int, body: bytes) -> bytes:
    """The answer to a client's message; `body` is the envelope as JSON."""
    return framed(b'{"type":"answer","id":%b,"status":%d,"body":%b}' % (to_json(identity), status, body or b"{}"))


def frame_of(identity: str) -> Frame:
    """How events look that are sent under an id."""
    head = b'{"type":"frame","id":%b,"event":' % to_json(identity)

    def frame(event: str, data: bytes, _: int | None) -> bytes:
        return framed(b'%b"%b","data":%b}' % (head, event.encode(), data))

    return frame
