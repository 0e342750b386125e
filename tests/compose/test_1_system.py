"""The whole system in containers: healthy from nothing, nothing lost, three bridges, away and back."""

import os
import shutil
import signal
import time
from itertools import islice
from pathlib import Path

import pytest

from icestream.detector import nominal_icecube86
from icestream.registry import REGISTERED, Registry
from icestream.sources.kaggle import write_folder
from icestream.sources.simulation.simulator import simulated_events
from icestream.streams import keys
from tests.compose.conftest import HEALTHY_S, System
from tests.waiting import ROOT, wait_until
from tritonserver.process import HOST

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]
SOAK_S = 600


def balance(system: System) -> None:
    """Every event that was emitted has a result, or is one of the few on their way."""
    emitted = system.emitted()
    wait_until(
        lambda: system.stored() + system.added(keys.REJECTED) >= emitted,
        "what was emitted is through",
        120,
    )
    done = system.stored()
    assert system.added(keys.REJECTED) == 0
    assert emitted <= done <= system.emitted()  # the emitter goes on meanwhile
    wait_until(lambda: int(system.redis("XLEN", keys.EVENTS)[0]) < 500, "few are on their way", 120)


def test_everything_is_healthy_soon(system: System) -> None:
    assert system.seconds_to_health < HEALTHY_S  # type: ignore[attr-defined]
    assert system.unwell() == []


def test_after_ten_minutes_every_event_has_its_result_and_nothing_alarms(system: System) -> None:
    time.sleep(SOAK_S)
    balance(system)
    assert system.unwell() == []
    targets = system.get("PROMETHEUS", "/api/v1/targets")["data"]["activeTargets"]
    assert {target["labels"]["job"]: target["health"] for target in targets} == dict.fromkeys(
        (
            "emitter",
            "bridge",
            "challenger",
            "deployer",
            "recorder",
            "display",
            "triton",
            "redis",
            "prometheus",
            "alertmanager",
        ),
        "up",
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


MODELS = ["exec", "-T", "deployer", "python", "-m", "deployer.models"]


def register_again(system: System, folder: Path) -> str:
    """The same weights as another version; returns its number."""
    shutil.copytree(ROOT / "model_repository" / "icemix", folder)
    (folder / "README").write_text(f"so that the files are others: {folder}")
    return Registry(f"http://{HOST}:{system.port['MLFLOW']}", REGISTERED).register(folder, {})


def test_the_model_is_changed_and_changed_back(system: System, tmp_path: Path) -> None:
    """The same weights as a version of another name, promoted while events come."""
    version = register_again(system, tmp_path / "icemix")
    for action, name in ((["promote", version, "--because", "a test"], f"icemix-v{version}"), (["rollback"], "icemix")):
        began = time.monotonic()
        assert f"is served as {name}" in system.compose(*MODELS, *action)
        print(f"\n    {' '.join(action)} after {time.monotonic() - began:.0f} s")
        wait_until(lambda name=name: system.get("DISPLAY", "/v1/status")["model"].startswith(name), "it answers", 60)  # type: ignore[misc]
    balance(system)


def test_a_challenger_is_compared_and_promoted(system: System, tmp_path: Path) -> None:
    """The same weights once more; the gate is passed within a minute or two."""
    version = register_again(system, tmp_path / "icemix")
    assert f"version {version} answers 50% of the events as well" in system.compose(
        *MODELS, "challenge", version, "--share", "0.5"
    )
    wait_until(
        lambda: system.ask("icestream_recorder_challenge_pairs >= 2000"), "2000 events are answered by both", 300
    )
    print("\n" + system.compose(*MODELS, "compare", "--budget", "5"))
    assert f"is served as icemix-v{version}" in system.compose(*MODELS, "promote", version, "--budget", "5")
    system.compose(*MODELS, "rollback")
    balance(system)


def test_down_and_up_again_goes_on_and_loses_nothing(system: System) -> None:
    emitted, done = system.emitted(), system.stored()
    system.compose("down")
    system.up()
    assert system.emitted() >= emitted
    assert system.stored() >= done
    balance(system)
    recorded = "sum(icestream_recorder_events_total)"
    wait_until(lambda: float((system.ask(recorded) or [{"value": [0, 0]}])[0]["value"][1]) > 0, "recording goes on", 60)


def test_a_killed_bridge_is_started_again_and_takes_up_what_it_held(system: System) -> None:
    [bridge] = system.containers("bridge")
    os.kill(bridge["State"]["Pid"], signal.SIGKILL)  # as the kernel does when memory is short; needs root
    began = time.monotonic()
    wait_until(lambda: system.containers("bridge")[0]["RestartCount"] > bridge["RestartCount"], "it is started again")
    wait_until(lambda: not system.unwell(), "it is healthy", 60)
    print(f"\n    healthy after {time.monotonic() - began:.0f} s")
    balance(system)
    print(f"    balanced after {time.monotonic() - began:.0f} s")


def test_the_stream_does_not_notice_that_prometheus_is_away(system: System) -> None:
    done = system.stored()
    system.compose("stop", "prometheus")
    wait_until(lambda: system.stored() > done + 500, "the stream goes on", 60)
    system.compose("start", "prometheus")
    wait_until(lambda: system.ask("icestream:stored:rate1m > 50"), "rates are whole again", 120)
    balance(system)


def test_a_kaggle_folder_is_replayed_in_the_emitters_place(system: System, tmp_path: Path) -> None:
    write_folder(tmp_path, islice(simulated_events(nominal_icecube86(), 11, 0), 500))
    tmp_path.chmod(0o755)
    for path in tmp_path.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    system.environment["ICESTREAM_KAGGLE_DIR"] = str(tmp_path)
    done = system.stored()
    system.compose("--profile", "replay", "up", "-d", "--scale", "emitter=0")
    wait_until(lambda: system.redis("HGET", f"{keys.EMITTED}:1", "emitted") == ["500"], "the folder is emitted", 120)
    wait_until(lambda: [one["State"]["Status"] for one in system.containers("replay")] == ["exited"], "it has ended")
    assert system.containers("replay")[0]["State"]["ExitCode"] == 0
    wait_until(lambda: system.redis("XLEN", keys.EVENTS) == ["0"], "all is through", 60)
    assert system.stored() >= done + 500
    assert system.added(keys.REJECTED) == 0
    system.compose("--profile", "replay", "rm", "--force", "--stop", "replay")
    system.up()
