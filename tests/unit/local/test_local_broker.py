"""The embedded broker's configuration, checked by the broker itself."""

from __future__ import annotations

import contextlib
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import nats
import pytest

from engram import broker
from engram_contracts.errors import Unavailable
from engram_runtime.credentials import Credentials
from support.servers import free_port, wait_for_port


@pytest.mark.parametrize(("durability", "sync"), [("power", "always"), ("second", "1s"), ("process", "2m")])
def test_durability_says_when_jetstream_syncs(tmp_path, durability, sync):
    config = broker.configure(tmp_path, Credentials(tmp_path), port=4222, durability=durability)

    assert f"sync_interval: {sync}" in config.read_text()


def test_the_broker_accepts_its_configuration_whatever_the_folder_is_called(tmp_path):
    folder = tmp_path / 'a "quoted" name\\with ünusual $signs'

    config = broker.configure(folder, Credentials(folder), port=4222, durability="power")
    checked = subprocess.run([broker.binary(), "-t", "-c", config], capture_output=True, text=True, check=False)

    assert checked.returncode == 0, checked.stderr


def test_a_disk_without_room_is_told_of_before_anything_begins(tmp_path):
    broker.check_room(tmp_path)

    with pytest.raises(Unavailable, match=f"MiB are free in {str(tmp_path)!r}, .* needed to begin; make room"):
        broker.check_room(tmp_path, least=2**62)
    (tmp_path / "jetstream").mkdir()
    broker.check_room(tmp_path, least=2**62)


def test_password_and_configuration_are_for_the_owner_alone(tmp_path):
    config = broker.configure(tmp_path, Credentials(tmp_path), port=4222, durability="power")

    modes = [stat.S_IMODE(file.stat().st_mode) for file in (config, tmp_path / "password")]

    assert modes == [0o600, 0o600]


def test_the_password_is_made_once(tmp_path):
    assert broker.password(tmp_path) == broker.password(tmp_path)
    assert len(broker.password(tmp_path)) >= 32


def test_a_port_is_kept_from_run_to_run(tmp_path):
    port = free_port()

    broker.configure(tmp_path, Credentials(tmp_path), port=port, durability="process")

    assert next(broker.ports(tmp_path)) == port


def test_a_port_that_was_taken_meanwhile_is_not_kept(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        (tmp_path / "port").write_text(str(taken.getsockname()[1]))

        assert taken.getsockname()[1] not in list(broker.ports(tmp_path))


def test_the_broker_of_another_folder_is_not_taken_for_ones_own(tmp_path):
    port = free_port()
    config = broker.configure(tmp_path / "one", Credentials(tmp_path / "one"), port=port, durability="process")
    process = subprocess.Popen([broker.binary(), "-c", config], stderr=subprocess.DEVNULL)

    try:
        wait_for_port(port, process)

        assert broker.answers(tmp_path / "one", port)
        assert not broker.answers(tmp_path / "two", port)
    finally:
        process.kill()
        process.wait()


def test_where_nobody_listens_nobody_answers(tmp_path):
    assert not broker.answers(tmp_path, free_port())


async def test_what_an_older_release_kept_is_taken_along(tmp_path):
    port = free_port()
    nameless = tmp_path / "old.conf"
    store = tmp_path / "jetstream"
    nameless.write_text(f'host: "127.0.0.1"\nport: {port}\njetstream {{ store_dir: "{store}" }}\n')
    with running(nameless, port):
        await keep(f"nats://127.0.0.1:{port}", b"kept")

    config = broker.configure(tmp_path, Credentials(tmp_path), port=port, durability="process")
    with running(config, port):
        login = {"user": broker.USER, "password": broker.password(tmp_path)}
        connection = await nats.connect(f"nats://127.0.0.1:{port}", **login)
        found = await connection.jetstream().get_msg("OLD", seq=1)
        await connection.close()

    assert found.data == b"kept"


@contextlib.contextmanager
def running(config: Path, port: int) -> Iterator[None]:
    process = subprocess.Popen([broker.binary(), "-c", config], stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port, process)
        yield
    finally:
        process.terminate()
        process.wait()


async def keep(url: str, body: bytes) -> None:
    connection = await nats.connect(url)
    await connection.jetstream().add_stream(name="OLD", subjects=["old"])
    await connection.jetstream().publish("old", body)
    await connection.close()
