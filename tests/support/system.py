"""The whole of Engram as users run it: `engram serve` as a real process, on free ports, in a folder of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from engram import broker
from engram_contracts.permissions import Role
from engram_runtime.keys import create_key, create_tenant, load_pepper
from engram_runtime.nats_bus import open_bus
from engram_runtime.settings import NatsSettings
from support.servers import free_port

READY_SECONDS = 120.0
STOP_SECONDS = 30.0
TAIL_LINES = 25


@dataclass(frozen=True)
class System:
    """A running Engram. `ready_after` is the seconds from starting the process to its readiness."""

    process: subprocess.Popen[bytes]
    url: str
    data_dir: Path
    ready_after: float

    @property
    def admin_key(self) -> str:
        """The key of tenant `default` that the first start made."""
        return (self.data_dir / "admin.key").read_text().strip()

    @property
    def headers(self) -> dict[str, str]:
        """What a request of the admin carries."""
        return {"Authorization": f"Bearer {self.admin_key}"}

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by service (and `nats`), as they are now: a service that was started again has a new one."""
        processes: dict[str, int] = json.loads((self.data_dir / "run.json").read_text())["processes"]
        return processes

    @property
    def nats(self) -> NatsSettings:
        """How to reach the broker it runs on."""
        url = json.loads((self.data_dir / "run.json").read_text())["nats"]
        return NatsSettings(url=url, user=broker.USER, password=SecretStr(broker.password(self.data_dir / "nats")))

    async def new_key(self, tenant: str, role: Role = "writer") -> str:
        """A new key for a tenant, which is created where there is none of that name."""
        async with open_bus(self.nats, name="engram-tests") as bus:
            await create_tenant(bus, tenant)
            return await create_key(bus, tenant, role, "test", load_pepper(self.data_dir, None))

    def logs(self) -> str:
        """The last lines of every log."""
        return log_tails(self.data_dir)


@contextlib.contextmanager
def embedded_system(
    folder: Path, *, durability: str = "process", environ: Mapping[str, str] | None = None
) -> Iterator[System]:
    """A ready Engram with its data in `folder`, stopped by SIGTERM at the end, which must exit with 0.

    The same folder again continues with the data that is there. `environ` adds `ENGRAM_*` variables; those of the
    caller's own environment, and its configuration file, do not count. What goes wrong carries the last lines of
    the logs.
    """
    port, data_dir = free_port(), folder / "data"
    _choose_broker_port(data_dir)
    began = time.monotonic()
    process = _start(folder, data_dir, port, {"ENGRAM_DURABILITY": durability, **(environ or {})})
    url = f"http://127.0.0.1:{port}"
    try:
        _await_ready(process, url)
        yield System(process, url, data_dir, time.monotonic() - began)
        code = stop(process)
        assert code == 0, f"engram serve ended with {code} after SIGTERM"
    except BaseException as error:
        error.add_note(f"last lines of the logs:\n{_tail(folder / 'serve.log')}\n{log_tails(data_dir)}")
        raise
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> int:
    """End the process by SIGTERM, or by SIGKILL when it takes too long; its exit code."""
    if process.poll() is None:
        process.terminate()
    try:
        return process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def log_tails(data_dir: Path) -> str:
    """The last lines of every log of an Engram's data directory."""
    return "\n".join(_tail(file) for file in sorted((data_dir / "logs").glob("*.log")))


def _start(folder: Path, data_dir: Path, port: int, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    config = folder / "config.yaml"
    config.touch()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ENGRAM_")}
    own = {"ENGRAM_CONFIG": str(config), "ENGRAM_SERVE_PORT": str(port), "ENGRAM_DATA_DIR": str(data_dir)}
    command = str(Path(sys.executable).with_name("engram"))
    with (folder / "serve.log").open("ab") as log:
        return subprocess.Popen([command, "serve"], env={**inherited, **own, **environ}, stdout=log, stderr=log)


def _choose_broker_port(data_dir: Path) -> None:
    """Name a free port for the broker, so that systems which start together do not reach for the same one."""
    file = data_dir / "nats" / "port"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(free_port()))


def _await_ready(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while (trouble := _trouble(url)) is not None:
        if process.poll() is not None:
            raise RuntimeError(f"engram serve ended with {process.returncode} before it was ready")
        if time.monotonic() > deadline:
            raise TimeoutError(f"engram serve was not ready after {READY_SECONDS:g} s: {trouble}")
        time.sleep(0.02)


def _trouble(url: str) -> str | None:
    """What keeps it from being ready, or `None`."""
    try:
        with urllib.request.urlopen(f"{url}/health/ready", timeout=2.0) as answer:
            body = answer.read()
        return None if json.loads(body)["data"]["status"] == "ready" else body.decode()
    except urllib.error.HTTPError as error:
        return error.read().decode()
    except (OSError, http.client.HTTPException) as error:
        return repr(error)


def _tail(file: Path) -> str:
    if not file.exists():
        return f"-- {file.name}: none"
    lines = file.read_text(errors="replace").splitlines()[-TAIL_LINES:]
    return "\n".join((f"-- {file.name}", *lines))
