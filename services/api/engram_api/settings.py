"""Settings of the door."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, SecretStr, model_validator

from engram_contracts.topology import MiB
from engram_runtime.settings import Common, Section

SECRET_BYTES = 32


def _parted(said: object) -> object:
    """Several values in one variable, parted by commas."""
    return [part.strip() for part in said.split(",") if part.strip()] if isinstance(said, str) else said


class ServeSettings(Section):
    """Where the door listens and what it bears. Sizes are bytes, durations seconds.

    `reuse_port` lets several doors share one port; `socket` is the number of an open one that listens already.
    `head_seconds` bounds a new connection that sends no whole request head, `idle_seconds` one that had an answer,
    `body_seconds` one that does not finish its body. Pages of other origins may read answers only where `cors_origins`
    names them (`https://app.example.com`). With `tls_certificate` and `tls_key` (PEM files) the door speaks TLS alone.
    `waiting` bounds the messages that wait for the broker's acknowledgement, which must come within
    `broker_seconds`. `requests` and `body_bytes` bound what is in hand at once, `tenant_requests` what of it is one
    tenant's, `tenant_bytes` what one tenant has waiting on the work stream. Past its own bounds a tenant is refused
    with 429, past those of all with 503; who holds least is refused last. `tenant_share` is how many memories a second
    one tenant may send as bulk while another is served, `tenant_questions` how many of its recalls and reads go on at
    the same time then; others of it wait, a second at most.

    `streams` bounds the connections that stay open (event streams and WebSockets), `tenant_streams` what of them is one
    tenant's. A client of one may have `unread_bytes` unread; without reading any for `slow_seconds` it is closed. A
    quiet one is sent a sign of life every `beat_seconds`, and on a WebSocket has to give one in twice that time;
    who it is, it has to say within `hello_seconds`.

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
    head_seconds: float = Field(default=10.0, gt=0)
    idle_seconds: float = Field(default=60.0, gt=0)
    cors_origins: Annotated[tuple[str, ...], BeforeValidator(_parted)] = ()
    tls_certificate: Path | None = None
    tls_key: Path | None = None
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
    tenant_share: float = Field(default=100.0, gt=0)
    tenant_questions: int = Field(default=4, ge=1)
    streams: int = Field(default=2_000, ge=1)
    tenant_streams: int = Field(default=1_000, ge=1)
    unread_bytes: int = Field(default=128 * 1024, ge=16 * 1024)
    slow_seconds: float = Field(default=10.0, gt=0)
    beat_seconds: float = Field(default=15.0, gt=0)
    hello_seconds: float = Field(default=5.0, gt=0)
    repeat_seconds: float = Field(default=5.0, ge=0)
    lease_seconds: float = Field(default=15.0, gt=0)


class AuthSettings(Section):
    """Who is let in. `pepper` is a secret of at least 32 bytes; without it one is made in the data directory.

    With `enabled` off, everyone is an admin of the tenant that `X-Engram-Tenant` names, else of `default`.

    Tokens count where there is a `jwt_secret` (HS256, 32 bytes or more) or a `jwt_jwks_url` (RS256, ES256; https,
    unless `jwt_jwks_private` allows http and addresses of one's own network), with `jwt_issuer` and `jwt_audience`. The
    `*_claim` settings name the claims that hold the tenant, the role, the permissions, and the one user whose memories
    the bearer reaches; `jwt_leeway` is what clocks may differ, in seconds. With `host_suffix`, such as
    `engram.example.com`, the label before it in the host names the tenant.
    """

    enabled: bool = True
    pepper: SecretStr | None = None
    host_suffix: str | None = None
    jwt_secret: SecretStr | None = None
    jwt_jwks_url: str | None = None
    jwt_jwks_private: bool = False
    jwt_issuer: str | None = None
    jwt_audience: str | None = None
    jwt_tenant_claim: str = "tenant"
    jwt_role_claim: str = "role"
    jwt_scope_claim: str | None = None
    jwt_user_claim: str | None = None
    jwt_leeway: float = Field(default=30.0, ge=0, le=300)

    @model_validator(mode="after")
    def _says_whose_tokens_count(self) -> Self:
        if self.jwt_secret is None and self.jwt_jwks_url is None:
            return self
        if self.jwt_secret is not None and self.jwt_jwks_url is not None:
            raise ValueError("give jwt_secret or jwt_jwks_url, not both")
        if self.jwt_secret is not None and len(self.jwt_secret.get_secret_value().encode()) < SECRET_BYTES:
            raise ValueError(f"jwt_secret is shorter than {SECRET_BYTES} bytes; set a longer random text")
        if not self.jwt_issuer or not self.jwt_audience:
            raise ValueError("tokens need jwt_issuer and jwt_audience, which they must name")
        return self


class LimitSettings(Section):
    """Bounds before anybody is known: failed logins a minute from one address (0: as many as they like).

    With `loopback` off, addresses of this machine are not bound, behind which a proxy may stand for all.
    """

    failures_per_minute: int = Field(default=60, ge=0, le=100_000)
    loopback: bool = False


class MetricsSettings(Section):
    """Who may read `/metrics`: everyone, or whoever sends `token` as a bearer token."""

    token: SecretStr | None = None


class Settings(Common):
    """Everything the door needs to know."""

    serve: ServeSettings = ServeSettings()
    auth: AuthSettings = AuthSettings()
    limits: LimitSettings = LimitSettings()
    metrics: MetricsSettings = MetricsSettings()
