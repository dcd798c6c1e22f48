"""The embedded broker: its binary, its configuration, its password, and who else it lets in."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from engram_contracts.errors import Rejected, Unavailable
from engram_contracts.topology import MiB
from engram_runtime.credentials import ACCOUNT, Credentials, own_account
from engram_runtime.settings import Durability

SYNC: dict[Durability, str] = {"power": "always", "second": "1s", "process": "2m"}
"""What each durability means to JetStream: when what was acknowledged is forced to disk."""

USER = "engram"
FAVOURITE_PORT = 4222
LEAST_ROOM = 128 * MiB


def binary() -> str:
    """The nats-server to run: one on PATH, else the one installed with Engram."""
    beside = Path(sys.executable).with_name("nats-server")
    found = shutil.which("nats-server") or (str(beside) if beside.exists() else None)
    if found is None:
        raise Rejected("no nats-server found; install it, or set ENGRAM_NATS_URL to one that runs")
    return found


def password(folder: Path) -> str:
    """The broker's password, made once and kept readable by its owner alone."""
    file = folder / "password"
    kept = file.read_text() if file.exists() else ""
    if not kept:
        kept = secrets.token_urlsafe(32)
        folder.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
        file.write_text(kept)
    return kept


def ports(folder: Path) -> Iterator[int]:
    """Ports to try, each free a moment ago: that of the last run, 4222, then a few others."""
    file = folder / "port"
    kept = [int(file.read_text())] if file.exists() else []
    yield from (port for port in (*kept, FAVOURITE_PORT) if _free(port))
    for _ in range(3):
        yield any_port()


def name(folder: Path) -> str:
    """What the broker of this folder calls itself."""
    return f"engram-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"


def disk_size(folder: Path) -> int:
    """Bytes of the disk that a folder is on: what is free of it changes, and the server would go by that."""
    return shutil.disk_usage(folder).total


def check_room(folder: Path, *, least: int = LEAST_ROOM) -> None:
    """Raise `Unavailable` where a broker cannot begin, because the disk has not the least room in bytes."""
    free = shutil.disk_usage(folder).free
    if free < least and not (folder / "jetstream").exists():
        raise Unavailable(
            f"{free // MiB} MiB are free in {str(folder)!r}, and {least // MiB} MiB are needed to begin; "
            "make room, or choose another --data-dir"
        )


def answers(folder: Path, port: int) -> bool:
    """Whether the broker of this folder, and not another one, listens on the port."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            greeting = connection.makefile("rb").readline()
        return bool(json.loads(greeting.removeprefix(b"INFO "))["server_name"] == name(folder))
    except (OSError, ValueError, KeyError):
        return False


def is_own(folder: Path, url: str) -> bool:
    """Whether a broker's address is that of this folder's."""
    parts = urlsplit(url)
    return parts.hostname == "127.0.0.1" and parts.port is not None and answers(folder, parts.port)


def configure(folder: Path, credentials: Credentials, *, port: int, durability: Durability) -> Path:
    """Write the broker's configuration, and keep the port for the next run; the configuration's path.

    Streams of a release that knew no accounts are taken along.
    """
    file = folder / "nats.conf"
    folder.mkdir(parents=True, exist_ok=True)
    _take_along(folder / "jetstream" / "jetstream")
    credentials.configure()
    (folder / "port").write_text(str(port))
    file.touch(mode=0o600)
    file.write_text(
        f"""server_name: {name(folder)}
host: "127.0.0.1"
port: {port}
max_payload: 4MB
max_pending: 256MB
accounts {{
  {own_account(USER, password(folder))}
  include "accounts.conf"
}}
jetstream {{
  store_dir: {_quoted(folder / "jetstream")}
  sync_interval: {SYNC[durability]}
  max_file_store: {disk_size(folder)}
}}
"""
    )
    return file


def _take_along(store: Path) -> None:
    """Move what lies in the broker's nameless account to that of Engram's processes."""
    if (store / "$G").exists() and not (store / ACCOUNT).exists():
        (store / "$G").rename(store / ACCOUNT)


def _quoted(path: Path) -> str:
    return json.dumps(str(path), ensure_ascii=False)


def any_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
