"""The embedded broker: its binary, its configuration, its password."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import sys
from pathlib import Path

from engram_contracts.errors import Rejected
from engram_runtime.settings import Durability

SYNC: dict[Durability, str] = {"power": "always", "second": "1s", "process": "2m"}
"""What each durability means to JetStream: when what was acknowledged is forced to disk."""

USER = "engram"
FAVOURITE_PORT = 4222


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


def pick_port(folder: Path) -> int:
    """The port of the last run if it is free, else 4222, else any."""
    file = folder / "port"
    candidates = [int(file.read_text())] if file.exists() else []
    port = next((port for port in (*candidates, FAVOURITE_PORT) if _free(port)), 0) or any_port()
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(str(port))
    return port


def configure(folder: Path, *, port: int, durability: Durability) -> Path:
    """Write the broker's configuration; its path."""
    file = folder / "nats.conf"
    folder.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600)
    file.write_text(
        f"""server_name: engram
host: "127.0.0.1"
port: {port}
max_payload: 4MB
max_pending: 256MB
authorization {{ user: {USER}, password: "{password(folder)}" }}
jetstream {{
  store_dir: {json.dumps(str(folder / "jetstream"), ensure_ascii=False)}
  sync_interval: {SYNC[durability]}
}}
"""
    )
    return file


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
