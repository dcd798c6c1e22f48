"""Settings of one machine: which layer wins, and what is refused at start."""

from __future__ import annotations

from pathlib import Path

import pytest

from engram.settings import Settings
from engram.supervisor import Supervisor
from engram_contracts.errors import Rejected
from engram_runtime.settings import load


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


def settings(config: Path, yaml: str = "", environ: dict[str, str] | None = None, **flags: object) -> Settings:
    config.write_text(yaml)
    return load(Settings, flags=flags, environ=environ or {}, config=config)


def test_flags_win_over_environment_over_yaml_over_defaults(config):
    yaml = "serve: {host: yaml, port: 1, body_limit: 2048}"
    environ = {"ENGRAM_SERVE_HOST": "env", "ENGRAM_SERVE_PORT": "2"}

    found = settings(config, yaml, environ, serve={"host": "flag", "port": None}).serve

    assert (found.host, found.port, found.body_limit, found.idle_seconds) == ("flag", 2, 2048, 60.0)


def test_the_defaults_are_a_laptops(config):
    found = settings(config)

    assert (found.serve.host, found.serve.port) == ("127.0.0.1", 8765)
    assert found.embedder.adapter == "static"
    assert found.durability == "power"
    assert found.auth.enabled
    assert not found.nats_is_external


def test_a_named_broker_is_external(config):
    assert settings(config, environ={"ENGRAM_NATS_URL": "nats://broker:4222"}).nats_is_external


def test_a_variable_in_the_yaml_is_expanded(config):
    yaml = "embedder: {api_key: '${OPENAI_KEY}', base_url: 'http://${HOST}:1/v1'}"

    found = settings(config, yaml, {"OPENAI_KEY": "sk-1", "HOST": "box"}).embedder

    assert found.api_key is not None
    assert (found.api_key.get_secret_value(), found.base_url) == ("sk-1", "http://box:1/v1")


def test_a_variable_that_is_not_set_is_refused_with_its_name_and_the_key_it_stands_in(config):
    with pytest.raises(Rejected, match=r"embedder\.api_key refers to \$\{OPENAI_KEY\}"):
        settings(config, "embedder: {api_key: '${OPENAI_KEY}'}")


def test_a_secret_may_come_from_a_file(config, tmp_path):
    (tmp_path / "pepper").write_text("p" * 40 + "\n")

    found = settings(config, environ={"ENGRAM_AUTH_PEPPER_FILE": str(tmp_path / "pepper")}).auth.pepper

    assert found is not None
    assert found.get_secret_value() == "p" * 40


def test_a_secret_file_that_is_not_there_is_refused_by_name(config):
    with pytest.raises(Rejected, match="ENGRAM_AUTH_PEPPER_FILE names '/nowhere'"):
        settings(config, environ={"ENGRAM_AUTH_PEPPER_FILE": "/nowhere"})


@pytest.mark.parametrize(
    ("yaml", "environ", "named"),
    [
        ("serve: {port: high}", {}, "serve.port"),
        ("", {"ENGRAM_SERVE_PORT": "70000"}, "serve.port"),
        ("serve: {colour: red}", {}, "serve.colour"),
        ("sevre: {port: 1}", {}, "sevre"),
        ("durability: maybe", {}, "durability"),
        ("- a list", {}, "must hold a mapping"),
        ("a: [", {}, "not valid YAML"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_key(config, yaml, environ, named):
    with pytest.raises(Rejected, match=named):
        settings(config, yaml, environ)


def test_a_secret_is_never_in_the_error_about_it(config):
    with pytest.raises(Rejected) as caught:
        settings(config, "nats: {password: [hunter2]}")

    assert "nats.password" in caught.value.message
    assert "hunter2" not in caught.value.message


def test_what_is_set_reaches_the_services_with_its_secrets(config, tmp_path):
    chosen = settings(config, serve={"port": 0}, auth={"pepper": "p" * 40}, data_dir=tmp_path)

    flags = Supervisor(chosen, print)._flags
    again = load(Settings, flags=flags, environ={}, config=config)

    assert again.auth.pepper is not None
    assert again.auth.pepper.get_secret_value() == "p" * 40
    assert again.serve.port > 0


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8765"),
        ("0.0.0.0", "http://127.0.0.1:8765"),
        ("::", "http://[::1]:8765"),
        ("box.example", "http://box.example:8765"),
    ],
)
def test_the_door_is_told_where_it_can_be_reached(config, tmp_path, host, url):
    assert Supervisor(settings(config, serve={"host": host}, data_dir=tmp_path), print).url == url
