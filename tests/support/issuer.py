"""An issuer of tokens: keys of its own, a key set over HTTP on a loopback address, and tokens good and bad."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from support.servers import free_port

ISSUER, AUDIENCE = "https://issuer.example", "engram"


@dataclass
class Issuer:
    """One issuer. `served` counts how often its key set was read."""

    rsa_key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65_537, 2_048))
    ec_key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    kids: tuple[str, str] = ("rsa-1", "ec-1")
    url: str = ""
    served: int = 0

    def claims(self, **other: Any) -> dict[str, Any]:
        """What a good token says; `None` takes a claim out."""
        said = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "ann",
            "exp": datetime.now(UTC) + timedelta(minutes=5),
            "tenant": "default",
            "role": "writer",
            **other,
        }
        return {name: value for name, value in said.items() if value is not None}

    def token(self, algorithm: str = "RS256", *, headers: dict[str, Any] | None = None, **other: Any) -> str:
        """A token signed with this issuer's key."""
        key, kid = (self.rsa_key, self.kids[0]) if algorithm == "RS256" else (self.ec_key, self.kids[1])
        return jwt.encode(self.claims(**other), key, algorithm, headers={"kid": kid, **(headers or {})})

    def key_set(self) -> dict[str, Any]:
        """The public keys."""
        first = jwt.algorithms.RSAAlgorithm.to_jwk(self.rsa_key.public_key(), as_dict=True)
        second = jwt.algorithms.ECAlgorithm.to_jwk(self.ec_key.public_key(), as_dict=True)
        return {"keys": [{**first, "kid": self.kids[0], "use": "sig"}, {**second, "kid": self.kids[1]}]}

    def public_bytes(self) -> bytes:
        """The RSA key as everybody can have it."""
        return self.rsa_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@asynccontextmanager
async def serving(issuer: Issuer) -> AsyncIterator[Issuer]:
    """The issuer's key set over HTTP."""

    async def answer(_: web.Request) -> web.Response:
        issuer.served += 1
        return web.json_response(issuer.key_set())

    application = web.Application()
    application.router.add_get("/keys", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    issuer.url = f"http://127.0.0.1:{port}/keys"
    try:
        yield issuer
    finally:
        await runner.cleanup()


def part(value: Any) -> str:
    """A part of a token."""
    raw = value if isinstance(value, bytes) else json.dumps(value, default=lambda at: int(at.timestamp())).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed_by_hand(header: Any, claims: Any, secret: bytes) -> str:
    """A token with an HMAC, whatever its header says."""
    body = f"{part(header)}.{part(claims)}"
    return f"{body}.{part(hmac.digest(secret, body.encode(), 'sha256'))}"


def forged(true: Issuer, other: Issuer) -> dict[str, str]:
    """Tokens that must not count, by what is wrong with them. `other` is somebody else, who serves keys as well."""
    claims, good = true.claims(), true.token()
    attacks = {
        f"none as {name}": f"{part({'alg': name, 'typ': 'JWT', 'kid': 'rsa-1'})}.{part(claims)}."
        for name in ("none", "None", "NONE", "nOnE", "")
    }
    attacks |= {
        f"confusion with {name}": signed_by_hand({"alg": "HS256", "kid": "rsa-1"}, claims, secret)
        for name, secret in {
            "the public key": true.public_bytes(),
            "its stripped form": true.public_bytes().strip(),
            "its JWK": json.dumps(true.key_set()["keys"][0]).encode(),
            "nothing": b"",
        }.items()
    }
    attacks |= {
        f"kid {kid!r}"[:60]: signed_by_hand({"alg": "HS256", "kid": kid}, claims, b"")
        for kid in (
            "../../../../dev/null",
            "/dev/null",
            "' OR 1=1 --",
            "rsa-1\x00",
            ["rsa-1"],
            {"a": 1},
            7,
            None,
            "k" * 999,
        )
    }
    theirs = other.key_set()["keys"][0]
    attacks |= {
        f"brings {name}": other.token(headers={name: value})
        for name, value in {
            "jku": other.url, "x5u": other.url, "jwk": theirs, "x5c": ["MIIB"], "crit": ["exp"],
        }.items()
    }  # fmt: skip
    attacks |= {
        "a stranger's key": other.token(),
        "ES256 under the kid of RS256": true.token("ES256", headers={"kid": "rsa-1"}),
        "expired": true.token(exp=datetime.now(UTC) - timedelta(minutes=5)),
        "not yet": true.token(nbf=datetime.now(UTC) + timedelta(minutes=5)),
        "another issuer": true.token(iss="https://else.example"),
        "another audience": true.token(aud="else"),
        "no audience": true.token(aud=None),
        "no issuer": true.token(iss=None),
        "no end": true.token(exp=None),
        "no subject": true.token(sub=None),
        "an end that is no number": signed_by_hand({"alg": "HS256"}, true.claims(exp="soon"), b"x" * 32),
        "oversized": true.token(more="x" * 5_500),
        "four parts": good + ".x",
        "two parts": good.rpartition(".")[0],
        "no parts": "eyJ",
        "deep": f"{part(b'[' * 4_000)}.{part(b'[')}.x",
        "no JSON": f"{part(b'no')}.{part(b'no')}.x",
        "not ASCII": good[:-1] + "é",
        "a tenant that cannot be": true.token(tenant="../acme"),
    }
    return attacks
