"""What compose.yaml, the Dockerfile and the files beside them promise, without a container engine."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from engram.settings import Settings
from engram_runtime.settings import _variables
from support.containers import COMPOSE, images, services

OURS = ("api", "embedder", "vectors", "graph", "reasoner", "metering", "recovery", "prepare", "provision")
EVERY = pytest.mark.parametrize("name", services())
IMAGES = images((COMPOSE / "Dockerfile").read_text())


def test_the_file_is_of_the_form_that_compose_takes() -> None:
    checked = subprocess.run(
        [Path(sys.executable).with_name("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", "compose.yaml"],
        cwd=COMPOSE, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert checked.returncode == 0, checked.stdout


@EVERY
def test_every_container_may_do_as_little_as_can_be(name: str) -> None:
    said = services()[name]

    assert said["read_only"] is True
    assert said["user"] == "65534:65534"
    assert said["cap_drop"] == ["ALL"]
    assert said["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "pid", "ipc", "devices"} & said.keys()
    assert said["tmpfs"]
    assert said["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}
    assert all(port.startswith("127.0.0.1:") for port in said.get("ports", ()))


@EVERY
def test_every_image_is_one_exact_version(name: str) -> None:
    image = services()[name]["image"]

    assert re.fullmatch(r"[a-z0-9./-]+:v?\d+\.\d+\.\d+[a-z0-9.-]*", image), image


@EVERY
def test_every_container_that_stays_says_how_it_does(name: str) -> None:
    said = services()[name]
    if said["restart"] == "no":
        return

    assert "healthcheck" in said or said["build"]["target"] in IMAGES


@pytest.mark.parametrize("name", OURS)
def test_every_image_of_ours_runs_a_module_that_is_there_as_nobody(name: str) -> None:
    said = services()[name]
    image = IMAGES[said["image"].partition(":")[0].removeprefix("engram-")]
    module = [*image.entrypoint, *said.get("command", ())][2]

    assert image.user == "65534:65534"
    assert image.entrypoint[:2] == ["python", "-m"]
    assert importlib.util.find_spec(module) is not None


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_setting_and_secrets_come_in_files(name: str) -> None:
    said: dict[str, Any] = services()[name].get("environment") or {}
    known = _variables(Settings)

    assert {variable.removesuffix("_FILE") for variable in said} <= known.keys()
    for variable, value in said.items():
        if re.search("PASSWORD|PEPPER|KEY|TOKEN|SECRET", variable):
            assert (variable.endswith("_FILE") and value.startswith("/run/secrets/")) or value == ""


def test_what_a_worker_keeps_lies_on_a_volume_and_doors_keep_nothing() -> None:
    said = services()
    kept = {name: [mount for mount in said[name].get("volumes", ()) if "/var/lib/engram" in mount] for name in OURS}

    assert all(kept[name] for name in ("graph", "metering", "embedder", "provision"))
    assert not any(kept[name] for name in ("api", "vectors", "reasoner", "recovery"))
    assert not any("container_name" in said[name] for name in OURS), "a container with a name of its own cannot scale"


def test_what_the_parts_name_of_each_other_is_there() -> None:
    whole = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
    said = services()
    mounted = {mount.partition(":")[0] for each in said.values() for mount in each.get("volumes", ())}

    assert {need for each in said.values() for need in each.get("depends_on", ())} <= said.keys()
    assert {name for name in mounted if not name.startswith(".")} == whole["volumes"].keys()
    assert all((COMPOSE / name).exists() for name in mounted if name.startswith("."))
    assert {each["build"]["target"] for each in said.values() if "build" in each} <= IMAGES.keys()
    built = {each["image"] for each in said.values() if "build" in each}
    assert {each["image"] for each in said.values() if each["image"].startswith("engram-")} == built


def test_ports_are_those_that_somebody_listens_on() -> None:
    said = services()
    scraped = yaml.safe_load((COMPOSE / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    found = scraped[0]["dns_sd_configs"][0]
    known = _variables(Settings)
    dockerfile = (COMPOSE / "Dockerfile").read_text()

    assert "ENGRAM_HOST_HEALTH_PORT" in known and IMAGES["base"].environ["ENGRAM_HOST_HEALTH_PORT"] == "9464"
    assert found["port"] == 9464 and set(found["names"]) == set(OURS) - {"prepare", "provision"}
    assert said["api"]["ports"] == ["127.0.0.1:8765:8765"] and "EXPOSE 8765 9464" in dockerfile
    assert f":{Settings().serve.port}" in said["api"]["ports"][0]
    conf = (COMPOSE / "nats.conf").read_text()
    for url in (said["api"]["environment"]["ENGRAM_NATS_URL"], " ".join(said["nats"]["healthcheck"]["test"])):
        port = re.search(r":(\d{4})\b", url)
        assert port and port[1] in conf


def test_what_every_image_copies_and_sets_is_known() -> None:
    dockerfile = (COMPOSE / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    variables = {name for image in IMAGES.values() for name in image.environ if name.startswith("ENGRAM_")}

    assert copied and all((COMPOSE.parent / name).exists() for line in copied for name in line.split())
    assert variables <= _variables(Settings).keys()
    assert set(re.findall(r"COPY --from=(\S+)", dockerfile)) <= IMAGES.keys()
    for installed in re.findall(r"\./(services/[a-z]+|contracts)", dockerfile):
        assert (COMPOSE.parent / installed / "pyproject.toml").exists()
