"""Credentials of other systems on the broker that Engram runs itself.

Each is an account of its own in the broker, so its inboxes are its own and there is no JetStream in it. The broker
passes what it publishes to its tenant's commands on to a door (with the credential's id put into the subject, which no
client can do), passes the tenant's live events in, and nothing else. They are kept in `credentials.json` in the
broker's folder, readable by the owner alone, and told to the broker as `accounts.conf`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import urlsplit

from engram_contracts.commands import COMMANDS
from engram_contracts.messages import Message, Moment, Tenant
from engram_contracts.permissions import allowed
from engram_contracts.topology import MOST_BYTES, PING, pinged_by

ACCOUNT = "ENGRAM"
"""The account of Engram's own processes."""

Role = Literal["reader", "writer"]
OPS: Mapping[Role, tuple[str, ...]] = {
    role: tuple(op for op, kind in COMMANDS.items() if allowed(role, kind.permission)) for role in get_args(Role)
}
"""What each role may send."""

MOST_CONNECTIONS = 64
ANSWER_SECONDS = 2.0


class Credential(Message):
    """What another system connects with; `id` is also the user's name on the broker."""

    id: str
    tenant: Tenant
    role: Role
    name: str
    password: str
    created_at: Moment

    def publishes(self) -> tuple[str, ...]:
        """The subjects it may publish to; the lane is any word, and decided by the door."""
        return (*(f"engram.work.*.{op}.{self.tenant}" for op in OPS[self.role]), PING)

    def subscribes(self) -> tuple[str, ...]:
        """The subjects it may subscribe to; the inbox is its account's own."""
        return (f"engram.event.{self.tenant}.>", "_INBOX.>")


class _Kept(Message):
    credentials: tuple[Credential, ...] = ()


class Credentials:
    """The credentials in a broker's folder.

    Any process may change them; the one that runs the broker sees it (`changed`) and tells the broker.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._configured = 0

    def all(self) -> tuple[Credential, ...]:
        """Every credential, oldest first."""
        try:
            return _Kept.model_validate_json((self._folder / "credentials.json").read_bytes()).credentials
        except FileNotFoundError:
            return ()

    def issue(self, tenant: str, role: Role, name: str, *, now: datetime) -> Credential:
        """A new credential of 256 random bits. Every call makes another."""
        made = Credential(
            id=f"nats-{secrets.token_hex(6)}",
            tenant=tenant,
            role=role,
            name=name,
            password=secrets.token_urlsafe(32),
            created_at=now,
        )
        with self._locked():
            self._write((*self.all(), made))
        return made

    def revoke(self, chosen: Callable[[Credential], bool]) -> tuple[Credential, ...]:
        """Take out those that are chosen; which they were. A repeat takes out none."""
        with self._locked():
            known = self.all()
            gone = tuple(credential for credential in known if chosen(credential))
            if gone:
                self._write(tuple(credential for credential in known if credential not in gone))
        return gone

    def changed(self) -> bool:
        """Whether there is anything that the broker's configuration does not say yet."""
        return self._stamp() != self._configured

    def configure(self) -> None:
        """Write what the broker reads; it counts once the broker is told to read it again."""
        self._configured = self._stamp()
        _replace(self._folder / "accounts.conf", accounts(self.all()).encode())

    def _stamp(self) -> int:
        try:
            return (self._folder / "credentials.json").stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def _write(self, credentials: tuple[Credential, ...]) -> None:
        _replace(self._folder / "credentials.json", _Kept(credentials=credentials).encode())

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self._folder / "credentials.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def accounts(credentials: Sequence[Credential]) -> str:
    """The accounts of these credentials, as the broker's configuration has them."""
    return "".join(f"{credential.id}: {json.dumps(_account(credential), indent=1)}\n" for credential in credentials)


def own_account(user: str, password: str) -> str:
    """The account of Engram's own processes, and what it lets others import."""
    what = {
        "jetstream": "enabled",
        "users": [{"user": user, "password": password}],
        "exports": [{"service": "engram.in.>"}, {"stream": "engram.event.>"}],
    }
    return f"{ACCOUNT}: {json.dumps(what)}"


def _account(credential: Credential) -> dict[str, object]:
    permissions = {
        "publish": {"allow": list(credential.publishes())},
        "subscribe": {"allow": list(credential.subscribes())},
    }
    passed_on = [
        {
            "service": {"account": ACCOUNT, "subject": f"engram.in.{credential.id}.*.{op}.{credential.tenant}"},
            "to": f"engram.work.*.{op}.{credential.tenant}",
        }
        for op in OPS[credential.role]
    ]
    ping = {"service": {"account": ACCOUNT, "subject": pinged_by(credential.id)}, "to": PING}
    passed_in = {"stream": {"account": ACCOUNT, "subject": f"engram.event.{credential.tenant}.>"}}
    return {
        "users": [{"user": credential.id, "password": credential.password, "permissions": permissions}],
        "imports": [*passed_on, ping, passed_in],
        "limits": {"max_connections": MOST_CONNECTIONS, "max_payload": MOST_BYTES},
    }


def is_let_in(url: str, credential: Credential) -> bool:
    """Whether a broker takes a credential now, and a door answers to it. Raises `OSError` where no broker does."""
    at = urlsplit(url)
    said = {
        "user": credential.id,
        "pass": credential.password,
        "verbose": False,
        "headers": True,
        "no_responders": True,
    }
    asked = b"CONNECT %b\r\nSUB _INBOX.ping 1\r\nPUB %b _INBOX.ping 0\r\n\r\n"
    with socket.create_connection((at.hostname or "127.0.0.1", at.port or 4222), timeout=ANSWER_SECONDS) as connection:
        answers = connection.makefile("rb")
        answers.readline()
        connection.sendall(asked % (json.dumps(said).encode(), PING.encode()))
        return answers.readline().startswith(b"MSG _INBOX.ping")


def _replace(file: Path, content: bytes) -> None:
    """Put a file in place as a whole, for the owner alone, on the disk before its name."""
    part = file.with_suffix(".part")
    part.touch(mode=0o600)
    with part.open("wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    part.replace(file)
