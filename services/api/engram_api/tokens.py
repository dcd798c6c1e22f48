"""Tokens: JSON Web Tokens (RFC 7519) of an issuer that was named in the settings, checked as RFC 8725 advises.

Nothing in a token chooses how it is checked: the algorithms are fixed by what keys there are (a secret: HS256; a key
set: RS256 and ES256), `kid` is only looked up in that set, and a token that brings a key or an address of one is
refused.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import jwt

from engram_contracts.control import Bounds
from engram_contracts.errors import Forbidden, Unauthorized
from engram_contracts.permissions import PERMISSIONS

MOST_CHARACTERS = 6_144
"""A header holds little more."""
REMEMBERED = 1_024
REMEMBERED_SECONDS = 60.0
"""A token that was found good is not checked again for so long; no longer, should its key be withdrawn."""
BRINGS_ITS_KEY = frozenset({"jku", "jwk", "x5u", "x5c", "crit"})
ROLES = frozenset({"reader", "writer", "operator", "admin"})
"""That a token may name; the owner of the installation has a key."""
REQUIRED = ("exp", "iss", "aud", "sub")
_TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII)
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,128}")


class TokenKeys(Protocol):
    """Where the keys are that tokens are signed with."""

    algorithms: tuple[str, ...]

    async def key(self, algorithm: str, kid: object) -> Any:  # a key of the library's for the algorithm, or bytes
        """The key to check with. Raises `Unauthorized` where there is none, `Unavailable` while that is unknown."""


class Secret:
    """One secret that is shared with the issuer."""

    algorithms: tuple[str, ...] = ("HS256",)

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    async def key(self, algorithm: str, kid: object) -> bytes:
        """The secret, whatever `kid` says."""
        return self._secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Who issues tokens and for whom, and which claims say what. `leeway` is what clocks may differ, in seconds.

    `user` names a claim whose value is the only `user_id` that the token's bearer reaches.
    """

    issuer: str
    audience: str
    tenant: str = "tenant"
    role: str = "role"
    scope: str | None = None
    user: str | None = None
    leeway: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What a good token says. `until` is when it runs out."""

    subject: str
    tenant: str | None
    role: str | None
    scopes: tuple[str, ...] | None
    user_id: str | None
    until: datetime

    def narrowed(self, bounds: Bounds) -> Bounds:
        """The bounds, held to the user that the token names. Raises `Forbidden` where that one is outside of them."""
        if self.user_id is None:
            return bounds
        if bounds.user_ids is not None and self.user_id not in bounds.user_ids:
            raise Forbidden("this token's user is not among those its member may reach")
        return bounds.model_copy(update={"user_ids": (self.user_id,)})


class Tokens:
    """Checks tokens."""

    def __init__(
        self, keys: TokenKeys, expected: Expected, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._keys = keys
        self._expected = expected
        self._clock = clock
        self._good: OrderedDict[bytes, tuple[Claims, datetime]] = OrderedDict()

    async def verify(self, text: str) -> Claims:
        """What the token says. Raises `Unauthorized` for one that does not count, and does not say why."""
        if len(text) > MOST_CHARACTERS:
            raise _refused()
        name = hashlib.sha256(text.encode("utf-8", "replace")).digest()
        now = self._clock()
        known = self._good.get(name)
        if known is not None and now < known[1]:
            return known[0]
        claims = await self._checked(text)
        self._remember(name, claims, now)
        return claims

    def _remember(self, name: bytes, claims: Claims, now: datetime) -> None:
        self._good[name] = claims, min(claims.until, now + timedelta(seconds=REMEMBERED_SECONDS))
        if len(self._good) > REMEMBERED:
            self._good.popitem(last=False)

    async def _checked(self, text: str) -> Claims:
        try:
            header = _header(text)
            algorithm = header.get("alg")
            if algorithm not in self._keys.algorithms or BRINGS_ITS_KEY & header.keys():
                raise _refused()
            key = await self._keys.key(algorithm, header.get("kid"))
            said = jwt.decode(
                text,
                key,
                algorithms=[algorithm],
                issuer=self._expected.issuer,
                audience=self._expected.audience,
                leeway=self._expected.leeway,
                options={"require": list(REQUIRED)},
            )
            return self._claims(said)
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, AttributeError, RecursionError) as error:
            raise _refused() from error

    def _claims(self, said: Mapping[str, Any]) -> Claims:
        expected = self._expected
        tenant, role = said.get(expected.tenant), said.get(expected.role)
        if tenant is not None and not (isinstance(tenant, str) and _TENANT.fullmatch(tenant)):
            raise _refused()
        user = None if expected.user is None else _name(said.get(expected.user))
        return Claims(
            subject=_name(said["sub"]),
            tenant=tenant,
            role=role if isinstance(role, str) and role in ROLES else None,
            scopes=None if expected.scope is None else _scopes(said.get(expected.scope)),
            user_id=user,
            until=datetime.fromtimestamp(int(said["exp"]), UTC) + timedelta(seconds=expected.leeway),
        )


def _header(text: str) -> dict[str, Any]:
    if not text.isascii() or text.count(".") != 2 or not all(map(_is_canonical, text.split("."))):
        raise _refused()
    header: dict[str, Any] = jwt.get_unverified_header(text)
    return header


def _is_canonical(part: str) -> bool:
    """Whether a part is written in the one way there is; else a changed token could mean the same as the true one."""
    raw = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode() == part


def _name(value: object) -> str:
    """A claim that names somebody. Raises `Unauthorized` where it does not."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise _refused()
    return value


def _scopes(value: object) -> tuple[str, ...]:
    """The permissions among a claim's words, which are a text or a list of them."""
    words = value.split() if isinstance(value, str) else value if isinstance(value, list) else ()
    return tuple(word for word in words if isinstance(word, str) and word in PERMISSIONS)


def _refused() -> Unauthorized:
    return Unauthorized("this token is not valid here; get a new one from its issuer")


class KeySet:
    """The keys of a JSON Web Key Set (RFC 7517), by id. Pure.

    Only RSA keys of 2048 bits or more and keys on P-256 are taken, and only such as are there for signatures.
    """

    def __init__(self, keys: Mapping[tuple[str, str], Any]) -> None:
        self._keys = dict(keys)

    def __len__(self) -> int:
        return len(self._keys)

    def get(self, algorithm: str, kid: object) -> Any:  # a key of the library's, or nothing
        """The key of this id for this algorithm, or `None`."""
        return self._keys.get((algorithm, kid)) if isinstance(kid, str) else None

    @classmethod
    def parse(cls, body: bytes) -> KeySet:
        """The key set that is written there, without keys of no use. Raises `ValueError` where there is none."""
        tree = json.loads(body)
        if not isinstance(tree, dict) or not isinstance(tree.get("keys"), list):
            raise ValueError("is no JSON Web Key Set: an object with a list of keys")
        found = {}
        for each in tree["keys"][:100]:
            algorithm = _algorithm(each)
            if algorithm is not None and (key := _public_key(each, algorithm)) is not None:
                found[algorithm, each["kid"]] = key
        return cls(found)


def _algorithm(key: object) -> str | None:
    """What a key checks; `None` where it has no use here."""
    if not isinstance(key, dict) or not isinstance(key.get("kid"), str) or key.get("use", "sig") != "sig":
        return None
    fits = {"RSA": "RS256", "EC": "ES256"}.get(str(key.get("kty")))
    return fits if fits is not None and key.get("alg", fits) == fits else None


def _public_key(key: dict[str, Any], algorithm: str) -> Any:  # a key of the library's, or nothing
    public = {name: value for name, value in key.items() if name in ("kty", "n", "e", "crv", "x", "y", "kid")}
    try:
        made = jwt.PyJWK(public, algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    size = getattr(made, "key_size", 0)
    return made if size >= 2_048 or (algorithm == "ES256" and size == 256) else None
