"""The whole system in containers: healthy from nothing, nothing lost, three bridges, away and back."""

import time

import pytest

from icestream import streams
from tests.compose.conftest import HEALTHY_S, System
from tests.conftest import wait_until

pytestmark = pytest.mark.compose
SOAK_S = 600


def balance(system: System) -> None:
    """Every event that was emitted has a result, or is one of the few on their way."""
    emitted = system.emitted()
    wait_until(
        lambda: system.added(streams.DIRECTIONS) + system.added(streams.REJECTED) >= emitted,
        "what was emitted is through",
        60,
    )
    done = system.added(streams.DIRECTIONS)
    on_the_way = int(system.redis("XLEN", streams.EVENTS)[0])
    assert system.added(streams.REJECTED) == 0
    assert emitted <= done <= system.emitted()  # the emitter goes on meanwhile
    assert on_the_way < 500


def test_everything_is_healthy_soon(system: System) -> None:
    assert system.seconds_to_health < HEALTHY_S  # type: ignore[attr-defined]
    assert system.unwell() == []


def test_after_ten_minutes_every_event_has_its_result_and_nothing_alarms(system: System) -> None:
    time.sleep(SOAK_S)
    balance(system)
    assert system.unwell() == []
    targets = system.get("PROMETHEUS", "/api/v1/targets")["data"]["activeTargets"]
    assert {target["labels"]["job"]: target["health"] for target in targets} == dict.fromkeys(
        ("emitter", "bridge", "recorder", "display", "triton", "redis", "prometheus", "alertmanager"), "up"
    )
    assert system.firing() == set()
    restarts = {container["Name"]: container["RestartCount"] for container in system.containers()}
    assert set(restarts.values()) == {0}, restarts
    status = system.get("DISPLAY", "/v1/status")
    assert (status["emitter"], status["bridges"], status["triton"], status["recorder"]) == (True, 1, True, True)
    assert system.get("DISPLAY", "/v1/events?limit=1")["events"][0]["kappa"] > 0
    runs = system.get("MLFLOW", "/api/2.0/mlflow/experiments/get-by-name?experiment_name=icestream")
    assert runs["experiment"]["lifecycle_stage"] == "active"


def test_three_bridges_share_the_work_and_prometheus_finds_them(system: System) -> None:
    system.up("--scale", "bridge=3")
    wait_until(lambda: len(system.ask('up{job="bridge"} == 1')) == 3, "three bridges are scraped", 60)
    busy = 'rate(icestream_bridge_events_total{outcome="stored"}[30s]) > 1'
    wait_until(lambda: len(system.ask(busy)) == 3, "three bridges work", 90)
    balance(system)
    system.up("--scale", "bridge=1")


def test_down_and_up_again_goes_on_and_loses_nothing(system: System) -> None:
    emitted, done = system.emitted(), system.added(streams.DIRECTIONS)
    system.compose("down")
    system.up()
    assert system.emitted() >= emitted
    assert system.added(streams.DIRECTIONS) >= done
    balance(system)
    recorded = "sum(icestream_recorder_events_total)"
    wait_until(lambda: float((system.ask(recorded) or [{"value": [0, 0]}])[0]["value"][1]) > 0, "recording goes on", 60)
