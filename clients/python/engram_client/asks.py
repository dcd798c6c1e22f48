"""One request and what its answer is, without any network: what is sent, how often it is tried, what comes of it. Pure.

Both clients are thin: they send what an `Exchange` says, tell it what came back, and sleep as long as it says.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from uuid import uuid4

from pydantic import BaseModel, TypeAdapter, ValidationError

from engram_contracts.errors import FAMILY, EngramError, Internal, Unavailable
from engram_contracts.retry import Retry

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
Values = Mapping[str, Any]

TRIED_AGAIN = frozenset({429, 500, 502, 503, 504})
"""Statuses after which the same request may fare better; a conflict, where it says when."""

STREAM = "text/event-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How often a request is tried, and how long all of it may take, in seconds.

    Waits grow as `retry` says, and are at least as long as the door asks for (`Retry-After`).
    """

    retry: Retry = field(default_factory=lambda: Retry(attempts=5, first=0.2, factor=2.0, most=10.0))
    longest_wait: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask(Generic[T]):
    """A request. `read` makes the result of the envelope's `data` and `meta`; `writes` has it sent under a key."""

    method: str
    path: str
    read: Callable[[Any, dict[str, Any]], T]
    query: Values = field(default_factory=dict)
    body: BaseModel | Values | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    writes: bool = False
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class Again:
    """Not yet: try again after so many seconds."""

    seconds: float


class Exchange(Generic[T]):
    """One request through all its tries, under one idempotency key, so that it has one effect."""

    def __init__(self, ask: Ask[T], policy: Policy) -> None:
        self._ask = ask
        self._policy = policy
        self._tries = 0
        self._waited = 0.0
        self._key = ask.idempotency_key or (str(uuid4()) if ask.writes else None)

    def sent(self) -> dict[str, Any]:
        """What to send, as the HTTP library takes it."""
        self._tries += 1
        own = {"Idempotency-Key": self._key} if self._key else {}
        body = self._ask.body
        if body is None:
            return {**self._to(), "headers": {**own, **self._ask.headers}}
        typed = {"Content-Type": "application/json", **own, **self._ask.headers}
        return {**self._to(), "headers": typed, "content": encoded(body)}

    def _to(self) -> dict[str, Any]:
        return {"method": self._ask.method, "url": self._ask.path, "params": flat(self._ask.query)}

    def answered(self, status: int, headers: Mapping[str, str], body: bytes) -> T | Again:
        """The result, or when to try again. Raises the door's error where trying again does not help, or no more."""
        if status < 400:
            envelope = opened(body, status)
            return self._ask.read(envelope["data"], envelope["meta"])
        error = error_of(status, headers, body)
        asked = headers.get("Retry-After")
        if status in TRIED_AGAIN or (status == 409 and asked):
            return self._again(error, float(asked) if asked and asked.isdigit() else None)
        raise error

    def broken(self, cause: Exception) -> Again:
        """When to try again after a connection that failed. Raises `Unavailable` when that was the last try."""
        error = Unavailable(
            f"no answer from the door ({type(cause).__name__}); is it running, and is its address right?"
        )
        error.__cause__ = cause
        return self._again(error, None)

    def begun(self) -> None:
        """It went well so far: tries are counted anew from here."""
        self._tries, self._waited = 0, 0.0

    def _again(self, error: EngramError, advised: float | None) -> Again:
        retry = self._policy.retry
        seconds = retry.delay(self._tries, chance=random.random(), advised=advised)  # noqa: S311 (jitter, no secret)
        if retry.worn_out(self._tries) or self._waited + seconds > self._policy.longest_wait:
            raise error
        self._waited += seconds
        return Again(seconds)


def data_as(kind: type[T]) -> Callable[[Any, dict[str, Any]], T]:
    """Reads the data as a type, and leaves what is beside it."""
    adapter = TypeAdapter(kind)
    return lambda data, _: adapter.validate_python(data)


def with_meta(kind: type[M]) -> Callable[[Any, dict[str, Any]], M]:
    """Reads data and meta together as one model."""
    return lambda data, meta: kind.model_validate({**meta, **data})


def everything(data: Any, meta: dict[str, Any]) -> dict[str, Any]:
    """Reads an answer as it is."""
    return {"data": data, "meta": meta}


def page_of(kind: type[BaseModel], name: str) -> Callable[[Any, dict[str, Any]], tuple[list[Any], str | None]]:
    """Reads one page of a list, and the cursor of the next."""
    adapter = TypeAdapter(list[kind])  # type: ignore[valid-type]  # a type that is known when it runs
    return lambda data, meta: (adapter.validate_python(data[name]), meta.get("next"))


def encoded(body: BaseModel | Values) -> bytes:
    """A body as JSON; models leave out what was not set."""
    if isinstance(body, BaseModel):
        return body.model_dump_json(exclude_unset=True).encode()
    return json.dumps({name: _plain(value) for name, value in body.items() if value is not None}).encode()


def flat(query: Values) -> list[tuple[str, str]]:
    """A query as pairs: lists are repeated, objects are JSON, what is `None` is left out."""
    pairs = []
    for name, value in query.items():
        for each in value if isinstance(value, (list, tuple)) else (value,):
            if each is not None:
                plain = _plain(each)
                pairs.append((name, plain if isinstance(plain, str) else json.dumps(plain)))
    return pairs


def _plain(value: Any) -> Any:
    return value if isinstance(value, str) else _ANY.dump_python(value, mode="json", exclude_unset=True)


_ANY: TypeAdapter[Any] = TypeAdapter(Any)


def opened(body: bytes, status: int) -> dict[str, Any]:
    """The envelope. Raises `Internal` for what is none, such as a proxy's page."""
    try:
        envelope = json.loads(body)
        if envelope["data"] is not None or envelope["error"] is None:
            return {"data": envelope["data"], "meta": envelope["meta"]}
    except (ValueError, KeyError, TypeError, ValidationError):
        pass
    raise Internal(f"the answer ({status}) is not Engram's; is this the address of a door?")


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> EngramError:
    """The error that an answer stands for, with the id of the request in its details."""
    try:
        told = json.loads(body)["error"]
        kind = FAMILY.get(told["code"], Internal)
    except (ValueError, KeyError, TypeError):
        return Internal(f"the door answered {status} without saying why", status=status)
    return kind(
        told["message"],
        field=told.get("field"),
        retry_after=told.get("retry_after"),
        status=status,
        details={**told.get("details", {}), "request_id": told.get("request_id")},
    )
