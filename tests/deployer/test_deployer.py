"""The model is changed while the stream runs."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from deployer.models import ModelsError
from icestream.registry import CHAMPION
from icestream.streams.serving import read_problems
from tests.deployer.conftest import SHIPPED, System, plain
from tests.waiting import wait_until


def test_the_shipped_model_becomes_the_first_version(system: System) -> None:
    system.deployer()
    wait_until(system.serves("icemix"), "the shipped model is the champion", 60)
    [version] = system.registry.versions()
    assert (version.version, version.aliases) == ("1", ("champion",))
    system.bridge()
    system.send(5)
    system.all_answered()
    assert set(system.answered_by()) == {"icemix"}


def test_promoted_and_rolled_back_while_events_come(system: System) -> None:
    system.deployer()
    system.bridge()
    display = system.display()
    wait_until(system.serves("icemix"), "the shipped model is the champion", 60)
    version = system.register()
    for name, change in (("icemix-v2", lambda: system.models.promote(version, "")), ("icemix", system.models.rollback)):
        system.send(20)
        [said] = change()
        assert f"is served as {name}" in said
        wait_until(lambda: display.ask("/health")[0] == 200, "the page is well", 30)
        wait_until(lambda name=name: _asks(system, name), "the bridge asks it", 30)  # type: ignore[misc]
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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (swap_axes, "away from its stored answer"),
        (damage, "does not load"),
        (rename_output, "does not fit this version"),
        (lambda folder: (folder / "config.pbtxt").unlink(), "config.pbtxt"),
    ],
)
def test_a_version_that_is_not_proved_changes_nothing(
    system: System, change: Callable[[Path], object], words: str
) -> None:
    """Whoever sets the alias, and however: what is served stays, and why is said."""
    deployer = system.deployer()
    wait_until(system.serves("icemix"), "the shipped model is the champion", 60)
    system.bridge()
    system.registry.set_alias(CHAMPION, system.register(change))
    wait_until(lambda: words in read_problems(system.redis).get(CHAMPION, ""), "it is said why", 60)
    assert deployer.metric("icestream_deployer_unserved", alias=CHAMPION) == 1
    system.send(10)
    system.all_answered()
    assert set(system.answered_by()) == {"icemix"}
    system.registry.set_alias(CHAMPION, "1")
    wait_until(lambda: not read_problems(system.redis), "all is well again", 30)


def test_a_champion_that_is_only_asked_for_is_no_way_back(system: System) -> None:
    """Version 2 is served, 3 cannot be loaded, Triton is restarted: 2 answers, and is what a rollback from 4 leads to."""
    system.deployer()
    system.bridge()
    wait_until(system.serves("icemix"), "the shipped model is the champion", 60)
    system.models.promote(system.register(), "")
    system.registry.set_alias(CHAMPION, system.register(damage))
    system.triton.kill()
    system.triton.start()
    wait_until(lambda: _asks(system, "icemix-v2"), "version 2 answers", 60)
    system.models.promote(system.register(), "")
    system.models.rollback()
    assert system.serves("icemix-v2")()


def test_a_start_with_another_model_makes_it_the_champion_and_a_start_with_the_same_changes_nothing(
    system: System,
) -> None:
    deployer = system.deployer()
    wait_until(system.serves("icemix"), "the shipped model is the champion", 60)
    system.models.promote(system.register(), "")
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


def test_a_stop_is_heard_while_mlflow_hangs(system: System) -> None:
    deployer = system.deployer()
    wait_until(system.serves("icemix"), "the shipped model is the champion", 60)
    os.killpg(system.mlflow.process_group, signal.SIGSTOP)
    try:
        failed = deployer.metric("icestream_deployer_failures_total", target="mlflow")
        wait_until(
            lambda: deployer.metric("icestream_deployer_failures_total", target="mlflow") > failed, "it waits", 60
        )
        assert deployer.stop(10) == 0
    finally:
        os.killpg(system.mlflow.process_group, signal.SIGCONT)


def test_files_that_are_not_those_that_were_registered_are_not_served(system: System) -> None:
    system.deployer()
    wait_until(system.serves("icemix"), "the shipped model is the champion", 60)
    version = system.register()
    run_id = next(one.run_id for one in system.registry.versions() if one.version == version)
    [config] = (system.folder / "mlflow" / "artifacts").rglob(f"{run_id}/artifacts/model/config.pbtxt")
    config.write_text(config.read_text().replace("other 1", "other 9"))
    system.registry.set_alias(CHAMPION, version)
    wait_until(
        lambda: "not those that were registered" in read_problems(system.redis).get(CHAMPION, ""), "it is said", 60
    )
    assert system.serves("icemix")()


def test_the_same_end_is_reached_whatever_dies_meanwhile(system: System) -> None:
    """The deployer is killed in the middle, Triton forgets what it had loaded, MLflow is away: results go on, each event has one."""
    deployer = system.deployer()
    wait_until(system.serves("icemix"), "the shipped model is the champion", 60)
    system.bridge()
    system.registry.set_alias(CHAMPION, system.register())
    deployer.kill()
    for folder in system.deployed.iterdir():
        shutil.rmtree(folder)
    (system.deployed / ".icemix-v2").mkdir()  # as one that was killed while it fetched leaves it
    system.send(10)
    system.deployer()
    wait_until(system.serves("icemix-v2"), "version 2 is served", 60)
    system.mlflow.kill()
    system.triton.kill()
    system.send(10)
    system.triton.start()
    system.mlflow.start()
    wait_until(lambda: _asks(system, "icemix-v2"), "version 2 answers again", 60)
    system.mlflow.kill()
    system.triton.kill()
    system.triton.start()
    wait_until(lambda: _asks(system, "icemix-v2"), "version 2 answers again, without MLflow", 60)


def test_a_bridge_that_starts_later_asks_the_champion_alone(system: System) -> None:
    """Also while Triton, just started, has the first model only."""
    deployer = system.deployer()
    wait_until(system.serves("icemix"), "the shipped model is the champion", 60)
    system.models.promote(system.register(), "")
    deployer.kill()
    system.triton.kill()
    system.triton.start()
    bridge = system.bridge()
    system.send(10)
    wait_until(lambda: bridge.metric("icestream_bridge_waiting_for", what="triton") == 1, "it waits for version 2")
    system.deployer()
    system.all_answered()
    assert set(system.answered_by()) == {"icemix-v2"}


def test_a_wrong_key_is_said(system: System) -> None:
    (system.folder / "key").write_text("another key")
    system.deployer()
    wait_until(
        lambda: "keeps model control to itself" in read_problems(system.redis).get(CHAMPION, ""), "it is said", 60
    )


def test_what_is_wanted_no_more_is_unloaded_and_removed(system: System) -> None:
    system.deployer()
    wait_until(system.serves("icemix"), "the shipped model is the champion", 60)
    two, three, four = (system.register() for _ in range(3))
    for version in (two, three, four):
        system.models.promote(version, "")
    wait_until(
        lambda: {plain(path.name) for path in system.deployed.iterdir()} == {"icemix-v3", "icemix-v4"}, "2 is gone", 60
    )


def test_what_a_user_types_wrong_is_said_in_words(system: System) -> None:
    with pytest.raises(ModelsError, match="no version 7 is registered; there are none"):
        system.models.promote("7", "")
    with pytest.raises(ModelsError, match="no version was the champion before"):
        system.models.rollback()
    system.mlflow.kill()
    with pytest.raises(ModelsError, match="is --mlflow-url right"):
        system.models.lines()


def _asks(system: System, name: str) -> bool:
    system.send(1)
    system.all_answered()
    return system.answered_by()[-1] == name
