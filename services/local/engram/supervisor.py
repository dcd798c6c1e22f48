"""Runs all of Engram on one machine: the broker and one process per service, from one preloaded parent.

What dies is started again. SIGTERM, SIGINT and SIGHUP drain: doors first, then the workers, the broker last. SIGUSR1
starts every process anew, one after another; the door's socket is the supervisor's, so that it is never shut.
"""

from __future__ import annotations

import fcntl
import gc
import http.client
import importlib
import json
import os
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from engram import broker
from engram.complaints import Complaints
from engram.processes import Child, last_words, program
from engram.settings import Settings
from engram.terminal import Tell
from engram.trust import trusting
from engram.watchdog import Watchdog
from engram_contracts.errors import Conflict, Rejected, Unavailable
from engram_runtime.credentials import Credentials

ORDER = ("embedder", "embedder-query", "vectors", "graph", "reasoner", "metering", "recovery", "api")
"""Start order of the services; they stop the other way round."""

OVERLAPPING = frozenset({"embedder", "embedder-query", "reasoner", "recovery", "api"})
"""These are ready anew before the old one ends. The others own files, which one process at a time may have open."""

BEHIND = {"embedder": 5, "reasoner": 5, "graph": 5, "metering": 10}
"""Who may lag under load gives way to what clients wait for: queries are embedded elsewhere, and a model takes longer
to answer than any of this.
"""

APART = frozenset({"fastembed", "openai"})
"""Adapters whose queries have a process of their own: no memory that is slow to embed, or kills its worker, holds up a
recall."""

PRELOADED = ("engram_runtime.host", "engram_contracts.topology")
BACKLOG = 1_024
LOOK_SECONDS = 0.5
LOCK_SECONDS = 3.0
BROKER_SECONDS = 30.0
BROKER_PAUSE_SECONDS = 0.1
"""Everybody waits for a broker that died, and a start of it costs next to nothing."""
READY_SECONDS = 60.0
MOST_STARTS = 5
"""So often a process may be started before the system is ready."""
RESTART_SECONDS = 60.0
"""So long a process may take to be ready again."""
KILL_SECONDS = 35.0
"""So long it may take until a process has ended whose place another one takes."""
DRAIN_SECONDS = (16.0, 26.0, 29.0)
"""By when doors, workers and broker must have ended, counted from the signal; then they are killed."""
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (addresses to listen on, and where to reach them)
SINGLE_THREADED = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


class Supervisor:
    """The parent process. `tell` gets one line for people at each event worth knowing."""

    def __init__(self, settings: Settings, tell: Tell) -> None:
        self._settings = settings
        self._tell = tell
        self._data = settings.data_dir
        self._host = settings.serve.host
        self._port = settings.serve.port or broker.any_port()
        self._flags = _flags(settings, self._port)
        self._children: list[Child] = []
        self._lock: IO[str] | None = None
        self._told: signal.Signals | None = None
        self._watchdog = Watchdog()
        self._credentials = Credentials(self._data / "nats")
        self._tellings = 0
        self._complaints = Complaints(self._log("nats"), self._data)
        self._asked_to_restart = False
        self._restarts: dict[str, Any] = {"count": 0, "failed": None}
        self._socket: socket.socket | None = None

    def run(self) -> None:
        """Start everything, keep it running until told to stop, then drain."""
        self._data.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = _lock(self._data / "lock")
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        began = time.monotonic()
        try:
            for step in (self._start_broker, _preload, self._provision, self._start_services, self._await_ready):
                if self._told is None:
                    step()
            if self._told is None:
                self._tell(f"ready on {self.url} after {time.monotonic() - began:.1f} s", url=self.url)
            while self._told is None:
                self._watch(LOOK_SECONDS)
                self._end_what_stands_still()
                self._have_the_broker_write_again()
                self._tell_the_broker_who_may_come_in()
                if self._asked_to_restart:
                    self._restart_all()
            self._tell("draining")
        finally:
            self._stop()

    @property
    def url(self) -> str:
        """Where the door is."""
        host = EVERYWHERE.get(self._host, self._host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self._port}"

    def _start_services(self) -> None:
        self._socket = _listening(self._host, self._port)
        self._flags["serve"]["socket"] = self._socket.fileno()
        for name in ORDER:
            if name != "embedder-query" or self._settings.embedder.adapter in APART:
                self._begin(self._service(name))
        self._record()

    def _start_broker(self) -> None:
        if self._settings.nats_is_external:
            return
        folder = self._data / "nats"
        folder.mkdir(exist_ok=True)
        broker.check_room(folder)
        for port in broker.ports(folder):
            config = broker.configure(folder, self._credentials, port=port, durability=self._settings.durability)
            child = Child(
                "nats", program(broker.binary(), "-c", str(config)), self._log("nats"), longest=BROKER_PAUSE_SECONDS
            )
            child.start()
            if self._listens(child, folder, port):
                self._children.append(child)
                self._flags["nats"] = {
                    **self._flags.get("nats", {}),
                    "url": f"nats://127.0.0.1:{port}",
                    "user": broker.USER,
                    "password": broker.password(folder),
                }
                return
        raise Unavailable(f"nats-server does not start; see {self._log('nats')}")

    def _listens(self, child: Child, folder: Path, port: int) -> bool:
        """Wait until the broker listens; it ends at once where another program was quicker to take the port."""
        deadline = time.monotonic() + BROKER_SECONDS
        while self._told is None and time.monotonic() < deadline and not broker.answers(folder, port):
            if child.ended():
                return False
            self._watch(0.01)
        return True

    def _provision(self) -> None:
        """Streams, consumers, buckets and the first key, in a child of its own; waits for it."""
        flags, data = self._flags, self._data

        def body() -> None:
            importlib.import_module("engram.provisioning").run(flags, data)

        child = Child("provision", body, self._log("provision"))
        child.start()
        done, status = 0, 0
        while self._told is None and not done:
            self._watch(0.2)
            self._give_up_on_what_keeps_dying()
            done, status = os.waitpid(child.pid or 0, os.WNOHANG)
        if not done:
            _end([child], time.monotonic() + 1.0)
        elif code := os.waitstatus_to_exitcode(status):
            raise Unavailable(f"provisioning failed with {code}: {last_words(child.log)}; see {child.log}")

    def _service(self, name: str) -> Child:
        """A process of a service, not started yet."""
        service, _, role = name.partition("-")
        split = self._settings.embedder.adapter in APART and service == "embedder"
        hosting = {"ready_file": str(self._ready_file(name)), "nice": BEHIND.get(service, 0)}
        own = {**self._flags, "host": {**self._flags.get("host", {}), **hosting}}
        if split:
            own["embedder"] = {**own.get("embedder", {}), "role": role or "work"}

        near = ["embedder"] if service == "vectors" and self._settings.embedder.adapter == "static" else []
        queries = {**self._flags, "embedder": {**self._flags.get("embedder", {}), "role": "query"}}

        def load() -> None:
            importlib.import_module("engram_runtime.host")
            for each in (service, *near):
                _parts(each)

        def body() -> None:
            if service != "api" and self._socket is not None:
                self._socket.close()
            host = importlib.import_module("engram_runtime.host")
            beside = [host.Beside(*_parts(each), queries) for each in near]
            host.run(service, *_parts(service), own, beside)

        return Child(name, body, self._log(name), load)

    def _begin(self, child: Child) -> None:
        child.start()
        self._children.append(child)

    def _log(self, name: str) -> Path:
        return self._data / "logs" / f"{name}.log"

    def _record(self) -> None:
        """Tell other commands on this machine where everything is."""
        certificate = self._settings.serve.tls_certificate
        state = {
            "pid": os.getpid(),
            "url": self.url,
            "nats": self._flags.get("nats", {}).get("url"),
            "certificate": str(certificate.absolute())
            if (certificate := self._settings.serve.tls_certificate)
            else None,
            "processes": {child.name: child.pid for child in self._children},
            "restarts": self._restarts,
        }
        file = self._data / "run.json"
        part = file.with_suffix(".part")
        part.write_text(json.dumps(state))
        part.replace(file)

    def _ready_file(self, name: str) -> Path:
        return self._data / "run" / name

    def _restart_all(self) -> None:
        """Every process anew, one after another, each once the one before it is ready; the broker first."""
        self._asked_to_restart = False
        failed = None
        for child in list(self._children):
            if self._told is None and failed is None and not self._restart(child):
                failed = child.name
                self._tell(f"{child.name} is not ready again; what has not been started anew is left as it is")
        self._restarts = {"count": self._restarts["count"] + 1, "failed": failed}
        self._record()
        if failed is None:
            self._tell("everything is started anew")

    def _restart(self, child: Child) -> bool:
        """Whether a new process of it is ready. One that owns files is ended by the new one, once that has loaded."""
        overlapping = child.name in OVERLAPPING
        new = Child(child.name, child.body, child.log, child.load, child.longest)
        new.start(after=None if overlapping else child.pid)
        if overlapping:
            if not self._comes_to_be_ready(new):
                _end([new], time.monotonic() + 1.0)
                return False
            child.tell(signal.SIGTERM)
        self._children[self._children.index(child)] = new
        self._record()
        self._leave(child)
        return overlapping or self._comes_to_be_ready(new)

    def _comes_to_be_ready(self, child: Child) -> bool:
        """Whether it does its work before long, and nobody tells all to stop."""
        deadline = time.monotonic() + RESTART_SECONDS
        while self._told is None and not self._is_ready(child):
            if time.monotonic() > deadline or (child not in self._children and child.ended()):
                return False
            self._watch(0.02)
        return self._told is None

    def _leave(self, child: Child) -> None:
        """Wait until a process that is being replaced has ended; when all are to stop, it is one of them."""
        deadline = time.monotonic() + KILL_SECONDS
        while not child.ended():
            if self._told is not None:
                self._children.append(child)
                return
            if time.monotonic() > deadline:
                child.tell(signal.SIGKILL)
            self._watch(0.02)

    def _is_ready(self, child: Child) -> bool:
        """Whether the process that runs now says that it does its work; of the broker, whether it listens."""
        if child.name == "nats":
            return broker.answers(self._data / "nats", int(self._flags["nats"]["url"].rpartition(":")[2]))
        try:
            return self._ready_file(child.name).read_text() == str(child.pid)
        except OSError:
            return False

    def _await_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        reason: object = "no answer"
        while self._told is None:
            host, certificate = EVERYWHERE.get(self._host, self._host), self._settings.serve.tls_certificate
            reason = _not_ready(host, self._port, certificate)
            if reason is None:
                return
            if time.monotonic() > deadline:
                raise Unavailable(f"not ready: {reason}; see the logs in {self._data / 'logs'}")
            self._give_up_on_what_keeps_dying()
            self._watch(0.05)

    def _give_up_on_what_keeps_dying(self) -> None:
        for child in self._children:
            if child.starts > MOST_STARTS:
                raise Unavailable(f"{child.name} does not start; see {child.log}")

    def _watch(self, seconds: float) -> None:
        """Wait for a signal, then start again what died and is due."""
        pause = min([seconds, *(max(0.0, child.due - time.monotonic()) for child in self._children if not child.pid)])
        told = signal.sigtimedwait(_SIGNALS, pause)
        if told is not None and told.si_signo == signal.SIGUSR1:
            self._asked_to_restart = True
        elif told is not None and told.si_signo != signal.SIGCHLD:
            self._told = signal.Signals(told.si_signo)
            return
        self._reap()
        for child in self._children:
            if child.pid is None and time.monotonic() >= child.due:
                child.start()
                self._tell(f"{child.name} is started again")
                self._record()

    def _end_what_stands_still(self) -> None:
        """SIGKILL to a process that shows no sign of life any more; it is started again like any that died."""
        beats = {child.name: beat for child in self._children if (beat := self._beat(child))}
        still = self._watchdog.still(beats, time.monotonic())
        for child in self._children:
            if child.name in still:
                self._tell(f"{child.name} stands still; it is ended")
                child.tell(signal.SIGKILL)

    def _have_the_broker_write_again(self) -> None:
        """After its disk was full a stream refuses everything until the broker is started anew."""
        for child in self._children:
            if child.name == "nats" and self._complaints.mendable(time.monotonic()):
                self._tell("the broker could not write; it is started anew")
                child.tell(signal.SIGTERM)

    def _tell_the_broker_who_may_come_in(self) -> None:
        """Credentials that were issued or revoked since it was told; connections that may stay, stay.

        It is told twice: what a new account imports counts (nats-server 2.15) when the account is not new any more.
        """
        if self._credentials.changed():
            self._credentials.configure()
            self._tellings = 2
        for child in self._children if self._tellings else ():
            if child.name == "nats":
                child.tell(signal.SIGHUP)
        self._tellings = max(self._tellings - 1, 0)

    def _beat(self, child: Child) -> tuple[int, float] | None:
        """Its process id and its last sign of life; `None` of one that has not shown any yet, and of the broker."""
        file = self._ready_file(child.name)
        try:
            return (child.pid, file.stat().st_mtime) if child.pid and file.read_text() == str(child.pid) else None
        except OSError:
            return None

    def _reap(self) -> None:
        running = {child.pid: child for child in self._children if child.pid}
        for pid, child in running.items():
            done, status = os.waitpid(pid or 0, os.WNOHANG)
            if done:
                child.died()
                self._tell(f"{child.name} ended with {os.waitstatus_to_exitcode(status)}; see {child.log}")

    def _stop(self) -> None:
        services = [child for child in self._children if child.name != "nats"]
        doors = [child for child in services if child.name == "api"]
        workers = [child for child in services if child.name != "api"]
        brokers = [child for child in self._children if child.name == "nats"]
        began = time.monotonic()
        for group, seconds in zip((doors, workers, brokers), DRAIN_SECONDS, strict=True):
            _end(group, began + seconds)
            if self._socket is not None:
                self._socket.close()
        (self._data / "run.json").unlink(missing_ok=True)


_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD}


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises `Rejected` where the port is taken."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        raise Rejected(f"cannot listen on {host}:{port}: {error.strerror}; set ENGRAM_SERVE_PORT") from error
    return listener


def _flags(settings: Settings, port: int) -> dict[str, Any]:
    """What was set, for the children; secrets in it stay wrapped. Master keys they read anew whenever they start."""
    flags = settings.model_dump(exclude_unset=True, exclude={"encryption"})
    return {**flags, "serve": {**flags.get("serve", {}), "port": port}}


def _end(children: Sequence[Child], deadline: float) -> None:
    """SIGTERM, then SIGKILL to what is left at the deadline."""
    left = [child for child in children if child.pid]
    for child in left:
        child.tell(signal.SIGTERM)
    while left:
        left = [child for child in left if not child.ended()]
        if time.monotonic() > deadline:
            for child in left:
                child.tell(signal.SIGKILL)
                os.waitpid(child.pid or 0, 0)
            return
        time.sleep(0.01)


def _parts(service: str) -> tuple[Any, Any]:
    """How a service is opened, and the type of its settings."""
    package = f"engram_{service}"
    opener = importlib.import_module(f"{package}.service").open_service
    return opener, importlib.import_module(f"{package}.settings").Settings


def _preload() -> None:
    """Import once what every child needs; they share the pages. Threads would not survive the fork."""
    for name in SINGLE_THREADED:
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def _lock(file: Path) -> IO[str]:
    """The lock on the data directory; the children of a supervisor that was killed hold it until they have ended."""
    handle = file.open("w")
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > deadline:
                where = str(file.parent)
                raise Conflict(f"another Engram runs on {where!r}; stop it or choose another --data-dir") from None
            time.sleep(0.05)
        else:
            return handle


def _not_ready(host: str, port: int, certificate: Path | None) -> object | None:
    """Why the system is not ready, or `None` when it is."""
    connection = http.client.HTTPConnection(host, port, timeout=2.0)
    if certificate is not None:
        connection = http.client.HTTPSConnection(host, port, timeout=2.0, context=trusting(certificate))
    try:
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        body = answer.read()
        return None if answer.status == http.HTTPStatus.OK else _failing(body)
    except (OSError, http.client.HTTPException) as error:
        return error
    finally:
        connection.close()


def _failing(body: bytes) -> object:
    """The checks that fail, from the door's answer."""
    try:
        envelope = json.loads(body)
        checks = (envelope.get("data") or envelope["error"]["details"])["checks"]
        return "; ".join(f"{name}: {check.get('detail')}" for name, check in checks.items() if not check.get("ok"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return body[:200]
