"""Settings of the door."""

from __future__ import annotations

from pydantic import Field, SecretStr

from engram_contracts.topology import MiB
from engram_runtime.settings import Common, Section


class ServeSettings(Section):
    """Where the door listens and what it bears. Sizes are bytes, durations seconds.

    `reuse_port` lets several doors share one port; `socket` is the number of an open one that listens already.
    `idle_seconds` bounds a connection that sends no whole request head, `body_seconds` one that does not finish its
    body. `waiting` bounds the messages that wait for the broker's acknowledgement, which must come within
    `broker_seconds`. `requests` and `body_bytes` bound what is in hand at once, `tenant_requests` what of it is one
    tenant's, `tenant_bytes` what one tenant has waiting on the work stream. Past its own bounds a tenant is refused
    with 429, past those of all with 503; who holds least is refused last.

    `streams` bounds the connections that stay open (event streams and WebSockets), `tenant_streams` what of them is one
    tenant's. A client of one may have `unread_bytes` unread; without reading any for `slow_seconds` it is closed. A
    quiet one is sent a sign of life every `beat_seconds`, and on a WebSocket has to give one in twice that time.

    A repeat under an idempotency key waits `repeat_seconds` for the first request's answer, then it is refused with
    409; a request that a door left behind is taken over `lease_seconds` after its last sign of life.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8765, ge=0, le=65_535)
    reuse_port: bool = False
    socket: int | None = None
    body_limit: int = Field(default=MiB, ge=1_024)
    bulk_body_limit: int = Field(default=4 * MiB, ge=1_024)
    body_seconds: float = Field(default=30.0, gt=0)
    idle_seconds: float = Field(default=60.0, gt=0)
    ask_seconds: float = Field(default=5.0, gt=0)
    longest_wait: float = Field(default=30.0, gt=0)
    think_seconds: float = Field(default=60.0, gt=0)
    drain_seconds: float = Field(default=10.0, gt=0)
    waiting: int = Field(default=20_000, ge=1_000)
    broker_seconds: float = Field(default=2.0, gt=0)
    requests: int = Field(default=4_096, ge=1)
    tenant_requests: int = Field(default=512, ge=1)
    body_bytes: int = Field(default=256 * MiB, ge=8 * MiB)
    tenant_bytes: int = Field(default=256 * MiB, ge=MiB)
    streams: int = Field(default=2_000, ge=1)
    tenant_streams: int = Field(default=1_000, ge=1)
    unread_bytes: int = Field(default=128 * 1024, ge=16 * 1024)
    slow_seconds: float = Field(default=10.0, gt=0)
    beat_seconds: float = Field(default=15.0, gt=0)
    repeat_seconds: float = Field(default=5.0, ge=0)
    lease_seconds: float = Field(default=15.0, gt=0)


class AuthSettings(Section):
    """Who is let in. `pepper` is a secret of at least 32 bytes; without it one is made in the data directory.

    With `enabled` off, everyone is an admin of the tenant that `X-Engram-Tenant` names, else of `default`.
    """

    enabled: bool = True
    pepper: SecretStr | None = None


class MetricsSettings(Section):
    """Who may read `/metrics`: everyone, or whoever sends `token` as a bearer token."""

    token: SecretStr | None = None


class Settings(Common):
    """Everything the door needs to know."""

    serve: ServeSettings = ServeSettings()
    auth: AuthSettings = AuthSettings()
    metrics: MetricsSettings = MetricsSettings()
