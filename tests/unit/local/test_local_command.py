"""The command without a system: one line for each mistake, and an exit code that tells them apart."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from engram.cli import app
from engram.terminal import teller
from support.servers import free_port

ENGRAM = str(Path(sys.executable).with_name("engram"))


def engram(folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and standard error, away from this machine's own settings."""
    (folder / "config.yaml").touch()
    environ = {"ENGRAM_CONFIG": str(folder / "config.yaml"), "HOME": str(folder), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [ENGRAM, *arguments], env=environ, capture_output=True, text=True, timeout=60, check=False, cwd=folder
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["recall", "x"], 3, "start it with `engram serve`"),
        (["status"], 3, "no answer from the broker at nats://127.0.0.1:"),
        (["ingest", "nowhere.jsonl"], 2, "'nowhere.jsonl' cannot be read: No such file"),
        (["ingest", "bad.jsonl"], 2, "bad.jsonl:1: not valid JSON"),
        (["ingest", "latin.txt"], 2, "latin.txt is not UTF-8 (byte 3)"),
        (["serve", "--config", "nowhere.yaml"], 2, "config file 'nowhere.yaml' does not exist"),
        (["serve", "--durability", "sometimes"], 2, "durability: "),
        (["serve", "--port", "70000"], 2, "serve.port: "),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(tmp_path, arguments, code, said):
    (tmp_path / "bad.jsonl").write_text("{")
    (tmp_path / "latin.txt").write_bytes(b"abc\xfc")
    (tmp_path / "config.yaml").write_text(f"nats: {{url: 'nats://127.0.0.1:{free_port()}'}}")
    where = ["--url", f"http://127.0.0.1:{free_port()}"]

    result, error = engram(tmp_path, *where, *arguments)

    assert result == code
    assert said in error
    assert len(error.strip().splitlines()) == 1


def commands(group: Any, *path: str) -> Iterator[tuple[str, Any]]:
    """Every command of the tree, with its whole name."""
    for name, found in getattr(group, "commands", {}).items():
        yield from commands(found, *path, name)
    if path and (not hasattr(group, "commands") or group.invoke_without_command):
        yield " ".join(path), group


def test_every_command_answers_programs_in_json():
    found = dict(commands(typer.main.get_command(app)))

    assert len(found) > 40
    assert [name for name, command in found.items() if "--json" not in str([one.opts for one in command.params])] == []


def test_what_is_said_to_programs_has_what_they_need_in_fields_of_its_own(capsys):
    teller(True)("ready on http://127.0.0.1:8765 after 3.0 s", url="http://127.0.0.1:8765")
    teller(False)("ready on http://127.0.0.1:8765 after 3.0 s", url="http://127.0.0.1:8765")

    said = capsys.readouterr()
    assert json.loads(said.out)["url"] == "http://127.0.0.1:8765"
    assert said.err == "engram: ready on http://127.0.0.1:8765 after 3.0 s\n"


def test_what_is_no_option_is_a_usage_error(tmp_path):
    code, error = engram(tmp_path, "recall", "--colour", "red")

    assert code == 2
    assert "--colour" in error


def test_the_data_directory_may_come_from_the_configuration_file(tmp_path):
    (tmp_path / "config.yaml").write_text("data_dir: kept\n")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "run.json").write_text('{"url": "http://127.0.0.1:1"}')

    code, error = engram(tmp_path, "recall", "x")

    assert code == 3
    assert "no Engram at http://127.0.0.1:1" in error
