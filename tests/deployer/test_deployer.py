"""The model is changed while the stream runs."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from deployer.deployer import BEAT_S
from deployer.models import Models, ModelsError
from icestream.registry import CHAMPION, Registry
from icestream.streams.publisher import count_run
from icestream.streams.serving import read_report
from tests.deployer.conftest import SHIPPED, System, plain
from tests.events import results, stored
from tests.servers import MlflowProcess, Program
from tests.waiting import wait_until

HEARTBEAT = "icestream_deployer_heartbeat_timestamp_seconds"


def begin(system: System, **settings: object) -> Program:
    """A deployer that has made the shipped model the champion."""
    deployer = system.deployer(**settings)
    wait_until(system.serves("icemix"), "the shipped model is the champion", 60)
    return deployer


def latest_model(system: System) -> str:
    """The model of the latest result."""
    return "".join(plain(one.model) for one in results(system.redis)[-1:])


def asks(system: System, name: str) -> bool:
    system.send(1)
    system.all_answered()
    return system.answered_by()[-1] == name


def test_promoted_and_rolled_back_while_events_come(system: System) -> None:
    begin(system)
    [version] = system.registry.versions()
    assert (version.version, version.aliases) == ("1", ("champion",))
    system.bridge()
    display = system.display()
    two = system.register()
    for name, change in (
        ("icemix-v2", lambda: system.models.promote(two, "a test")),
        ("icemix", system.models.rollback),
    ):
        system.send(20)
        [said] = change()
        assert f"is served as {name}" in said
        wait_until(lambda: display.ask("/health")[0] == 200, "the page is well", 30)
        wait_until(lambda name=name: asks(system, name), "the bridge asks it", 30)  # type: ignore[misc]
    system.all_answered()
    assert set(system.answered_by()) == {"icemix", "icemix-v2"}
    assert system.serving is not None
    assert system.serving.epoch == 3


def swap_axes(folder: Path) -> None:
    """Directions with x and y exchanged: its known answers are wrong."""
    model = onnx.load(folder / "1" / "model.onnx")
    for node in model.graph.node:
        node.output[:] = ["unswapped" if name == "direction" else name for name in node.output]
    model.graph.initializer.append(onnx.helper.make_tensor("order", onnx.TensorProto.INT64, [3], [1, 0, 2]))
    model.graph.node.append(onnx.helper.make_node("Gather", ["unswapped", "order"], ["direction"], axis=1))
    onnx.save(model, folder / "1" / "model.onnx")


def damage(folder: Path) -> None:
    (folder / "1" / "model.onnx").write_bytes(b"no model")


def rename_output(folder: Path) -> None:
    """Another tensor layout; Triton loads it all the same."""
    config = folder / "config.pbtxt"
    config.write_text(config.read_text().replace('name: "kappa"', 'name: "kapa"'))


def test_a_version_that_is_not_proved_changes_nothing(system: System) -> None:
    """Whoever sets the alias, and however: what is served stays, and why is said."""
    deployer = begin(system)
    system.bridge()
    cases: list[tuple[Callable[[Path], object], str]] = [
        (swap_axes, "away from its stored answer"),
        (damage, "does not load"),
        (rename_output, "does not fit this version"),
        (lambda folder: (folder / "config.pbtxt").unlink(), "config.pbtxt"),
    ]
    for change, words in cases:
        system.registry.set_alias(CHAMPION, system.register(change))
        wait_until(lambda words=words: words in problem(system), words, 60)  # type: ignore[misc]
        assert deployer.metric("icestream_deployer_unserved", alias=CHAMPION) == 1
    system.send(10)
    system.all_answered()
    assert set(system.answered_by()) == {"icemix"}
    system.registry.set_alias(CHAMPION, "1")
    wait_until(lambda: not read_report(system.redis).problems, "all is well again", 30)


def problem(system: System) -> str:
    return read_report(system.redis).problems.get(CHAMPION, "")


def test_a_champion_that_is_only_asked_for_is_no_way_back(system: System) -> None:
    """Version 2 is served, 3 cannot be loaded, Triton is restarted: 2 answers, and is what a rollback from 4 leads to."""
    begin(system)
    system.bridge()
    system.models.promote(system.register(), "a test")
    system.registry.set_alias(CHAMPION, system.register(damage))
    system.triton.kill()
    system.triton.start()
    wait_until(lambda: asks(system, "icemix-v2"), "version 2 answers", 60)
    system.models.promote(system.register(), "a test")
    system.models.rollback()
    assert system.serves("icemix-v2")()
    system.models.promote(system.register(), "a test")
    kept = {"icemix-v2", "icemix-v5"}
    wait_until(lambda: {plain(path.name) for path in system.deployed.iterdir()} == kept, "the others are removed", 60)


def test_a_start_with_another_model_makes_it_the_champion_and_a_start_with_the_same_changes_nothing(
    system: System,
) -> None:
    deployer = begin(system)
    system.models.promote(system.register(), "a test")
    assert deployer.stop() == 0
    deployer = system.deployer()
    wait_until(lambda: deployer.metric("icestream_deployer_epoch") > 0, "it has compared", 60)
    assert system.serves("icemix-v2")()
    assert [one.version for one in system.registry.versions()] == ["2", "1"]
    assert deployer.stop() == 0
    other = system.folder / "other"
    shutil.copytree(SHIPPED, other / "icemix")
    (other / "icemix" / "README").write_text("another one")
    system.deployer(shipped=other)
    wait_until(lambda: (serving := system.serving) and serving.champion.version == "3", "it is the champion", 60)


def test_two_deployers_change_the_model_once(system: System) -> None:
    begin(system)
    system.deployer()
    two = system.register()
    system.models.promote(two, "a test")
    system.models.rollback()
    assert system.serving is not None
    assert system.serving.epoch == 3


def test_a_bridge_that_starts_later_asks_the_champion_alone(system: System) -> None:
    """Also while Triton, just started, has the first model only."""
    deployer = begin(system)
    system.models.promote(system.register(), "a test")
    deployer.kill()
    system.triton.kill()
    system.triton.start()
    bridge = system.bridge()
    system.send(10)
    wait_until(lambda: bridge.metric("icestream_bridge_waiting_for", what="triton") == 1, "it waits for version 2")
    system.deployer()
    system.all_answered()
    assert set(system.answered_by()) == {"icemix-v2"}


def test_the_same_end_is_reached_whatever_dies_meanwhile(frail_system: System, own_mlflow: MlflowProcess) -> None:
    """The deployer is killed in the middle, Triton forgets what it had loaded, MLflow is away: results go on, each event has one."""
    system = frail_system
    deployer = begin(system)
    system.bridge()
    system.registry.set_alias(CHAMPION, system.register())
    deployer.kill()
    for folder in system.deployed.iterdir():
        shutil.rmtree(folder)
    (system.deployed / ".icemix-v2").mkdir()  # as one that was killed while it fetched leaves it
    system.send(10)
    system.deployer()
    wait_until(system.serves("icemix-v2"), "version 2 is served", 60)
    own_mlflow.kill()
    system.triton.kill()
    system.send(10)
    system.triton.start()
    wait_until(lambda: asks(system, "icemix-v2"), "version 2 answers again, without MLflow", 60)


CHANGES = 4  # 20 were run by hand


def test_the_model_is_changed_again_and_again_under_load_whatever_is_killed(system: System) -> None:
    """Nothing is lost or doubled, every result is of a model that was served, and epochs only rise."""
    deployer = begin(system)
    two = system.register()
    emitter, bridges = system.emitter(rate=40, run_id=5), [system.bridge(), system.bridge()]
    epochs = [system.serving and system.serving.epoch]
    for number in range(CHANGES):
        version, name = (two, "icemix-v2") if number % 2 == 0 else ("1", "icemix")
        system.registry.set_alias(CHAMPION, version)
        match number % 3:
            case 0:
                deployer.kill()
                deployer = system.deployer()
            case 1:
                bridges.pop(0).kill()
                bridges.append(system.bridge())
            case _:
                system.triton.kill()
                system.triton.start()
        wait_until(system.serves(name), f"{name} is served", 120)
        wait_until(lambda: latest_model(system) == name, "it answers", 120)  # noqa: B023 (at once)
        epochs.append(system.serving and system.serving.epoch)
    assert epochs == sorted(set(epochs), key=lambda epoch: epoch or 0)
    assert emitter.stop() == 0
    emitted = count_run(system.redis, 5).emitted
    wait_until(lambda: stored(system.redis) >= emitted, "all events have results", 120)
    answered = system.answered_by()
    assert len(answered) == stored(system.redis) == emitted > 0
    assert set(answered) == {"icemix", "icemix-v2"}


def test_files_that_are_not_those_that_were_registered_are_not_served(
    frail_system: System, own_mlflow: MlflowProcess
) -> None:
    """And while MLflow hangs the deployer shows that it waits, and hears a stop."""
    system = frail_system
    deployer = begin(system)
    version = system.register()
    run_id = next(one.run_id for one in system.registry.versions() if one.version == version)
    [config] = (system.folder / "mlflow" / "artifacts").rglob(f"{run_id}/artifacts/model/config.pbtxt")
    config.write_text(config.read_text().replace("other 1", "other 9"))
    system.registry.set_alias(CHAMPION, version)
    wait_until(lambda: "not those that were registered" in problem(system), "it is said", 60)
    assert system.serves("icemix")()
    os.killpg(own_mlflow.process_group, signal.SIGSTOP)
    try:
        beat = deployer.metric(HEARTBEAT)
        for _ in range(2):
            wait_until(lambda: deployer.metric(HEARTBEAT) > beat + BEAT_S / 2, "it shows that it waits", 60)  # noqa: B023 (at once)
            beat = deployer.metric(HEARTBEAT)
        assert deployer.metric("icestream_deployer_failures_total", target="mlflow") == 0  # for one and the same call
        assert deployer.stop(10) == 0
    finally:
        os.killpg(own_mlflow.process_group, signal.SIGCONT)


def test_a_wrong_key_is_said(system: System) -> None:
    (system.folder / "key").write_text("another key")
    system.deployer()
    wait_until(lambda: "keeps model control to itself" in problem(system), "it is said", 60)
    with pytest.raises(ModelsError, match="no version 7 is registered; there are 1"):
        system.models.promote("7", "a test")
    with pytest.raises(ModelsError, match="no version was the champion before"):
        system.models.rollback()
    assert "keeps model control to itself" in system.models.lines()[-1]
    away = Models(Registry("http://127.0.0.1:1", "icemix"), "redis://127.0.0.1:1", None)
    with pytest.raises(ModelsError, match="is --mlflow-url right"):
        away.lines()
