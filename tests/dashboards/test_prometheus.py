"""Prometheus's and Alertmanager's files, by their own tools."""

import json
import re
import subprocess
import threading
import urllib.request
from collections.abc import Callable
from http.server import HTTPServer
from typing import Any

import pytest
import yaml

from dashboards.alertmanager.alert_log import Receiver
from tests.waiting import ROOT
from tritonserver.process import HOST

FOLDER = ROOT / "dashboards" / "prometheus"
RULES = [rule for group in yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"] for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]


def run(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], cwd=FOLDER, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_accepts_configuration_and_rules(tool: Callable[[str], str]) -> None:
    run(tool("promtool"), "check", "config", "prometheus.yml")
    run(tool("promtool"), "check", "rules", "rules.yml")


def test_each_alert_fires_when_it_should_and_only_then(tool: Callable[[str], str]) -> None:
    run(tool("promtool"), "test", "rules", "rules_test.yml")
    tested = {
        expected["alertname"]
        for test in yaml.safe_load((FOLDER / "rules_test.yml").read_text())["tests"]
        for expected in test["alert_rule_test"]
        if expected.get("exp_alerts")
    }
    assert tested == {rule["alert"] for rule in ALERTS}


def test_amtool_accepts_the_routes(tool: Callable[[str], str]) -> None:
    found = run(tool("amtool"), "check-config", ROOT / "dashboards" / "alertmanager" / "alertmanager.yml")
    assert "SUCCESS" in found


def test_inhibitions_name_alerts_that_exist() -> None:
    routes = (ROOT / "dashboards" / "alertmanager" / "alertmanager.yml").read_text()
    named = {name for group in re.findall(r'alertname =~? "([\w|]+)"', routes) for name in group.split("|")}
    assert named <= {rule["alert"] for rule in ALERTS}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_it_means_and_where_it_is_written_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"]["summary"].endswith((".", "}}."))
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^#+ (\w+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert rule["alert"] in headings
    assert anchor == rule["alert"].lower()


def test_the_alert_log_prints_each_alert_as_a_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    server = HTTPServer((HOST, 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    alert = {
        "status": "firing", "labels": {"alertname": "RedisAway", "severity": "critical"},
        "annotations": {"summary": "Redis does not answer."}, "startsAt": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    message = json.dumps({"alerts": [alert, alert]}).encode()
    with urllib.request.urlopen(f"http://{HOST}:{server.server_port}/", data=message) as answer:
        assert answer.status == 200
    server.shutdown()
    server.server_close()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == 2 * [
        {
            "status": "firing", "alertname": "RedisAway", "severity": "critical",
            "summary": "Redis does not answer.", "since": "2026-01-01T00:00:00Z",
        }
    ]  # fmt: skip
