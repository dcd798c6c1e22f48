"""`engram dead` against recovery on a real broker: what operators type, see, and get as exit codes."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engram.cli import app
from engram.moments import moment
from engram_contracts.errors import Rejected
from support.burying import buried, connected, letters_there, recovering
from support.servers import NatsServer, free_port, nats_server

EDITOR = """
import json, pathlib, sys
file, here = pathlib.Path(sys.argv[1]), pathlib.Path(__file__).parent
if (here / "known").exists():
    file.write_text(json.dumps({**json.loads(file.read_text()), "memory_id": "known"}))
"""


@pytest.fixture
def broker(tmp_path: Path):
    with nats_server(tmp_path / "nats") as server:
        yield server


class Command:
    """Runs `engram dead` away from this machine's own settings."""

    def __init__(self, folder: Path, broker: NatsServer | None) -> None:
        (folder / "config.yaml").touch()
        self._environ = {
            "ENGRAM_CONFIG": str(folder / "config.yaml"),
            "ENGRAM_DATA_DIR": str(folder),
            "ENGRAM_NATS_URL": broker.url if broker else f"nats://127.0.0.1:{free_port()}",
            "EDITOR": f"{sys.executable} {folder / 'editor.py'}",
            "COLUMNS": "120",
        }

    async def __call__(self, *arguments: str, typed: str = "") -> tuple[int, str, str]:
        done = await asyncio.to_thread(
            CliRunner().invoke, app, ["dead", *arguments], env=self._environ, input=typed, catch_exceptions=False
        )
        return done.exit_code, done.stdout, done.stderr

    async def json(self, *arguments: str) -> dict:
        code, said, wrong = await self(*arguments, "--json")
        assert code == 0, wrong
        return json.loads(said)


async def test_operators_find_look_at_replay_and_drop_dead_letters(broker, tmp_path):
    engram = Command(tmp_path, broker)
    async with connected(broker) as bus, recovering(broker):
        commands = await buried(broker, bus, 5)
        await buried(broker, bus, 1, tenant="zeta")

        listed = await engram("list", "--tenant", "acme", "--since", "1h")
        groups = await engram("group", "--by", "code", "--by", "tenant")
        shown = await engram.json("show", "1")
        dry = await engram.json("replay", "--all", "--dry-run")
        there = await letters_there(bus)
        replayed = await engram("replay", "1", "2", "--rate", "100")
        dropped = await engram("drop", "--tenant", "zeta", "--reason", "a test")
        status = await engram.json("status")
        left = await engram.json("list")

    assert listed[0] == 0 and listed[1].count("no memory") == 5 and "zeta" not in listed[1]
    assert groups[1].splitlines()[0].split()[:3] == ["5", "INVALID_REQUEST", "acme"]
    assert shown["body"]["id"] in {command.id for command in commands}
    assert (dry["state"], dry["replayed"], there) == ("done", 6, 6)
    assert replayed[0] == 0 and "2 replayed" in replayed[1]
    assert dropped[0] == 0 and "1 dead letters" in dropped[1]
    assert [(one["replayed"], one["dry_run"]) for one in status["replays"]] == [(2, False), (6, True)]
    assert [letter["sequence"] for letter in left["letters"]] == [5, 4, 3]


async def test_a_payload_is_edited_in_an_editor_or_read_from_a_file(broker, tmp_path):
    engram = Command(tmp_path, broker)
    (tmp_path / "editor.py").write_text(EDITOR)
    async with connected(broker) as bus, recovering(broker):
        await buried(broker, bus, 2)
        body = (await engram.json("show", "1"))["body"]

        left_alone = await engram("edit", "1")
        (tmp_path / "known").touch()
        edited = await engram("edit", "1")
        sent = json.loads((await bus.jetstream.get_last_msg("ENGRAM_WORK", "engram.work.*.forget.acme")).data)
        wrong = await engram("edit", "2", "--payload", "-", typed=json.dumps({**body, "colour": "red"}))
        rubbish = await engram("edit", "2", "--payload", "-", typed="{")
        left = await letters_there(bus)

    assert left_alone[0] == 0 and "nothing was changed" in left_alone[2]
    assert edited[0] == 0 and "1 replayed" in edited[1]
    assert sent == {**body, "memory_id": "known"}
    assert wrong[0] == 2 and wrong[2].startswith("engram: payload.colour: ")
    assert rubbish[0] == 2 and "not valid JSON" in rubbish[2]
    assert left == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["replay"], 2, "choose one of"),
        (["replay", "1", "--all"], 2, "choose one of"),
        (["list", "--stage", "*"], 2, "filter.stage"),
        (["list", "--since", "yesterday"], 2, "'yesterday' is no time"),
        (["drop", "--all"], 2, "--reason"),
        (["drop", "--all", "--reason", " "], 2, "reason"),
        (["status", "nonsense"], 2, "id: "),
    ],
)
async def test_a_mistake_is_told_before_anything_is_asked(tmp_path, arguments, code, said):
    engram = Command(tmp_path, None)

    result, _, error = await engram(*arguments)

    assert result == code
    assert said in error


async def test_without_recovery_a_command_says_so(broker, tmp_path):
    engram = Command(tmp_path, broker)

    code, _, error = await engram("list")

    assert (code, error) == (3, "engram: recovery is not running\n")


def test_a_time_is_written_out_or_counted_back():
    now = datetime(2026, 1, 2, 12, tzinfo=UTC)

    assert moment("2h", "since", now=now) == "2026-01-02T10:00:00+00:00"
    assert moment("2026-01-01T10:00+02:00", "since") == "2026-01-01T08:00:00+00:00"
    for wrong in ("yesterday", "", "2w", "999999999d"):
        with pytest.raises(Rejected):
            moment(wrong, "since", now=now)
