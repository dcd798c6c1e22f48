"""Alert rules fire when a service level is missed, and only then."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from support.containers import COMPOSE
from support.servers import promtool_binary

PROMTOOL = promtool_binary()
HERE = Path(__file__).parent
RULES = COMPOSE / "prometheus" / "rules" / "engram.yml"

with_promtool = pytest.mark.skipif(PROMTOOL is None, reason="no promtool; run `make tools`")


@with_promtool
@pytest.mark.parametrize("arguments", [("check", "rules", str(RULES)), ("test", "rules", "rules.yml", "rules_day.yml")])
def test_the_rules_are_sound_and_fire_as_their_tests_say(arguments: tuple[str, ...]) -> None:
    checked = subprocess.run([str(PROMTOOL), *arguments], cwd=HERE, capture_output=True, text=True, check=False)

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_alert_has_a_test() -> None:
    alerts = {
        rule["alert"]
        for group in yaml.safe_load(RULES.read_text())["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }
    tested = {
        case["alertname"]
        for file in ("rules.yml", "rules_day.yml")
        for test in yaml.safe_load((HERE / file).read_text())["tests"]
        for case in test["alert_rule_test"]
        if case.get("exp_alerts")
    }

    assert alerts == tested


def test_every_panel_asks_the_data_source_that_is_provisioned() -> None:
    board = json.loads((COMPOSE / "grafana/dashboards/engram.json").read_text())
    sources = yaml.safe_load((COMPOSE / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]

    assert {panel["datasource"]["uid"] for panel in board["panels"]} == {source["uid"] for source in sources}
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
