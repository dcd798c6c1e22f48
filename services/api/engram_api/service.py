"""Composition root of the door."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

from pydantic import SecretStr

from engram_api import sockets
from engram_api.accepting import Acceptor
from engram_api.addresses import Addresses
from engram_api.administering import Registers
from engram_api.admission import Admission
from engram_api.announcing import Announcer
from engram_api.arrivals import Arrivals, arriving
from engram_api.committer import Committer
from engram_api.door import Door
from engram_api.gate import Gate
from engram_api.handlers import Handlers
from engram_api.keyring import Keyring, open_keyring
from engram_api.limiting import Limiter
from engram_api.lines import Lines
from engram_api.listening import listening
from engram_api.outstanding import Outstanding
from engram_api.pressure import Pressure
from engram_api.quotas import QuotaCheck
from engram_api.rates import Rates
from engram_api.readiness import Readiness
from engram_api.refusals import Refusals
from engram_api.repeats import Repeats
from engram_api.settings import AuthSettings, LimitSettings, ServeSettings, Settings
from engram_api.share import Share
from engram_api.tickets import Tickets
from engram_api.usage import UsageLog
from engram_api.uses import noting_uses
from engram_api.waits import Waits
from engram_api.whereabouts import Whereabouts
from engram_api.writes import Writer
from engram_contracts.control import Rate
from engram_contracts.ids import new_id
from engram_contracts.topology import IDEMPOTENCY, RATES
from engram_runtime.bus import Appended, Bus, Entry
from engram_runtime.keys import load_pepper
from engram_runtime.service import Service
from engram_runtime.vault import vault_of

if TYPE_CHECKING:
    from engram_api.tokens import Tokens


@runtime_checkable
class Reconnecting(Protocol):
    """A bus that says when its connection was lost and is back."""

    reconnected: list[Callable[[], None]]


@contextlib.asynccontextmanager
async def open_service(settings: Settings, bus: Bus) -> AsyncIterator[Service]:
    """The door, listening while the context is open; leaving it finishes what was begun.

    Raises `Rejected` when the pepper is too short or the port is taken.
    """
    serve = settings.serve
    pepper = load_pepper(settings.data_dir, _secret(settings.auth.pepper))
    async with contextlib.AsyncExitStack() as stack:
        keyring, watch_again = await stack.enter_async_context(open_keyring(bus, pepper))
        if isinstance(bus, Reconnecting):
            bus.reconnected.append(watch_again)
        await stack.enter_async_context(noting_uses(bus, keyring))
        parts = _parts(settings, bus, keyring, stack)
        waits = Waits(bus, parts.whereabouts)
        handlers = Handlers(
            bus,
            Acceptor(parts.writer, waits, serve, pepper),
            parts.whereabouts,
            Readiness(bus, keyring.check),
            waits,
            registers=Registers.of(bus, keyring),
            ask_seconds=serve.ask_seconds,
            pepper=pepper,
        )
        door = parts.door(handlers, serve)
        arrivals = Arrivals(
            parts.gate,
            parts.admission,
            limiter=parts.limiter,
            writer=parts.writer,
            usage=parts.usage,
            refusals=parts.refusals,
            pepper=pepper,
        )
        await stack.enter_async_context(arriving(bus, arrivals))
        application = door.application()
        talks = sockets.Sockets(door, parts.gate, Tickets(bus), parts.lines, serve)
        application.router.add_get(sockets.PATH, talks.serve)
        await stack.enter_async_context(listening(application, serve))
        await stack.enter_async_context(parts.lines.looked_after())
        stack.callback(waits.close)
        yield Service(name="api", checks={"keys": keyring.check})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What a request meets on its way in, and what writes and meters it."""

    gate: Gate
    admission: Admission
    share: Share
    limiter: Limiter
    usage: UsageLog
    refusals: Refusals | None
    repeats: Repeats
    lines: Lines
    writer: Writer
    whereabouts: Whereabouts

    def door(self, handlers: Handlers, serve: ServeSettings) -> Door:
        """The door that is made of them."""
        return Door(
            handlers,
            serve,
            gate=self.gate,
            admission=self.admission,
            share=self.share,
            limiter=self.limiter,
            usage=self.usage,
            refusals=self.refusals,
            repeats=self.repeats,
            lines=self.lines,
        )


def _parts(settings: Settings, bus: Bus, keyring: Keyring, stack: contextlib.AsyncExitStack) -> _Parts:
    """The parts; each that holds something is closed with the stack, the last one first."""
    serve = settings.serve
    name = f"door-{new_id()[-12:]}"
    usage = _closing(stack, UsageLog(bus, name, waiting=serve.waiting, within=serve.broker_seconds))
    quotas = _closing(stack, QuotaCheck(bus))
    refusals = _closing(stack, Refusals(bus, name, every=settings.audit.every)) if settings.audit.enabled else None
    announcer = _closing(stack, Announcer(bus))
    share = Share(serve.tenant_share, questions=serve.tenant_questions, tell=announcer.announce)
    return _Parts(
        gate=Gate(
            keyring,
            enabled=settings.auth.enabled,
            metrics_token=_secret(settings.metrics.token),
            tokens=_tokens(settings.auth, stack),
            host_suffix=settings.auth.host_suffix,
            vault=vault_of(bus),
        ),
        admission=Admission(
            requests=serve.requests, tenant_requests=serve.tenant_requests, body_bytes=serve.body_bytes
        ),
        share=share,
        limiter=Limiter(keyring.limits, Rates(bus.bucket(RATES)), quotas, _addresses(settings.limits)),
        usage=usage,
        refusals=refusals,
        writer=_writer(serve, bus, share, stack),
        repeats=_closing(stack, Repeats(bus.bucket(IDEMPOTENCY), wait=serve.repeat_seconds, lease=serve.lease_seconds)),
        lines=Lines(total=serve.streams, each=serve.tenant_streams),
        whereabouts=Whereabouts(bus, within=serve.ask_seconds),
    )


def _writer(serve: ServeSettings, bus: Bus, share: Share, stack: contextlib.AsyncExitStack) -> Writer:
    pressure = _closing(stack, Pressure(bus))
    outstanding = Outstanding(bus, most=serve.tenant_bytes)
    return _closing(stack, Writer(_committer(bus, serve), _committer(bus, serve), outstanding, pressure, share))


class Closable(Protocol):
    """What finishes what it has begun."""

    async def close(self) -> None:
        """Return once that is done."""


C = TypeVar("C", bound=Closable)


def _closing(stack: contextlib.AsyncExitStack, part: C) -> C:
    stack.push_async_callback(part.close)
    return part


def _tokens(auth: AuthSettings, stack: contextlib.AsyncExitStack) -> Tokens | None:
    """What checks tokens, where there are any to be checked."""
    if auth.jwt_secret is None and auth.jwt_jwks_url is None:
        return None
    from engram_api.fetching import Fetcher  # noqa: PLC0415 (most doors know keys alone, and spare the memory)
    from engram_api.key_sets import IssuerKeys  # noqa: PLC0415 (likewise)
    from engram_api.tokens import Expected, Secret, Tokens  # noqa: PLC0415 (likewise)

    expected = Expected(
        issuer=str(auth.jwt_issuer),
        audience=str(auth.jwt_audience),
        tenant=auth.jwt_tenant_claim,
        role=auth.jwt_role_claim,
        scope=auth.jwt_scope_claim,
        user=auth.jwt_user_claim,
        leeway=auth.jwt_leeway,
    )
    if auth.jwt_secret is not None:
        return Tokens(Secret(auth.jwt_secret.get_secret_value().encode()), expected)
    keys = IssuerKeys(Fetcher(str(auth.jwt_jwks_url), private=auth.jwt_jwks_private).fetch)
    stack.push_async_callback(keys.close)
    return Tokens(keys, expected)


def _committer(bus: Bus, serve: ServeSettings) -> Committer[Entry, Appended]:
    return Committer(
        partial(bus.append, within=serve.broker_seconds),
        waiting=serve.waiting,
        each=serve.waiting // 2,
        patience=serve.broker_seconds,
    )


def _addresses(limits: LimitSettings) -> Addresses:
    most = limits.failures_per_minute
    return Addresses(Rate(per_minute=most, burst=most) if most else None, loopback=limits.loopback)


def _secret(setting: SecretStr | None) -> str | None:
    return setting.get_secret_value() if setting is not None else None
