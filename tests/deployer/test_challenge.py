"""A challenger answers copies of the stream's events, is compared, and promoted; a champion that fails is withdrawn."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf import text_format
from mlflow import MlflowClient

from deployer.models import ModelsError
from deployer.refusals import KEPT
from icestream.inference import known_answers
from icestream.inference.known_answers import KnownAnswer
from icestream.inference.model_config import parse_config
from icestream.registry import CHALLENGER, CHAMPION, PREVIOUS, SHARE_TAG
from icestream.results import comparison
from icestream.streams import keys
from icestream.streams.serving import read_report
from icestream.tensors import pad
from tests.deployer.conftest import System
from tests.deployer.test_deployer import asks, begin, swap_axes
from tests.events import event, put, results
from tests.models import make_picky
from tests.servers import Program
from tests.waiting import wait_until

FEW = 300  # pairs that are enough here
NOISE = 0.05  # of each component: some two degrees
REFUSED, KILLS = 13.0, 19.0  # charge of an event that the model of tests/models.py refuses, or at which it ends Triton


def change_direction(folder: Path, add: Callable[[onnx.ModelProto], None]) -> None:
    """Another network, with known answers of its own. `add` makes `direction` of `plain`."""
    path = folder / "1" / "model.onnx"
    model = onnx.load(path)
    for node in model.graph.node:
        node.output[:] = ["plain" if name == "direction" else name for name in node.output]
    add(model)
    onnx.save(model, path)
    config = parse_config((folder / "config.pbtxt").read_text())
    stored = config.parameters["self_test"]
    asked = onnxruntime.InferenceSession(path)
    made = []
    for known in known_answers.decode(stored.string_value):
        direction, kappa = asked.run(["direction", "kappa"], pad([known.event], 16))
        made.append(KnownAnswer(known.event, tuple(direction[0].tolist()), float(kappa[0, 0])))
    stored.string_value = known_answers.encode(made)
    (folder / "config.pbtxt").write_text(text_format.MessageToString(config, as_utf8=True))


def node(model: onnx.ModelProto, kind: str, inputs: list[str], output: str, **attributes: object) -> None:
    model.graph.node.append(onnx.helper.make_node(kind, inputs, [output], **attributes))


def constant(model: onnx.ModelProto, name: str, value: object, kind: type = np.float32) -> str:
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, kind), name))
    return name


def add_noise(folder: Path) -> None:
    """Directions that are some two degrees away, differently for each event."""

    def add(model: onnx.ModelProto) -> None:
        scale = constant(model, "noise_scale", [[12989.8, 78233.1, 37719.3]])
        node(model, "Mul", ["kappa", scale], "noise_phase")
        node(model, "Sin", ["noise_phase"], "noise_sin")
        node(model, "Mul", ["noise_sin", constant(model, "noise_size", NOISE)], "noise")
        node(model, "Add", ["plain", "noise"], "noisy")
        node(model, "LpNormalization", ["noisy"], "direction", axis=1, p=2)

    change_direction(folder, add)


def challenge(system: System, version: str, share: float = 1.0) -> None:
    """Begin a challenge, and wait until events are copied."""
    [said] = system.models.challenge(version, share)
    assert f"version {version} answers {share:.0%} of the events as well" in said

    def copied() -> int:
        system.send(1)
        system.all_answered()
        return system.copies.answered

    wait_until(copied, "events are copied and answered", 30)


def compare(system: System) -> None:
    """Send events, and wait until all that were copied, which the largest are not, were answered by both."""
    system.send_simulated(FEW + 20)
    system.all_answered()

    def over() -> bool:
        copies = system.copies
        return (
            copies.copied == copies.answered
            and system.compared is not None
            and system.compared.pairs == copies.answered
        )

    wait_until(over, "all are compared", 60)


def start_all(system: System) -> tuple[Program, Program]:
    begin(system)
    system.bridge()
    return system.challenger(), system.recorder()


def test_an_equal_network_is_promoted_and_one_with_two_degrees_of_noise_is_not(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "NEEDED", FEW)
    challenger, recorder = start_all(system)
    equal, noisy = system.register(), system.register(add_noise)
    with pytest.raises(ModelsError, match=f"version {equal} was not compared with the champion"):
        system.models.promote(equal, "")
    with pytest.raises(ModelsError, match="there is no challenger"):
        system.models.compare()
    with pytest.raises(ModelsError, match="version 1 is the champion"):
        system.models.challenge("1", 0.5)
    challenge(system, equal)
    wait_until(lambda: system.compared, "the recorder compares", 30)
    with pytest.raises(ModelsError, match=f"events were answered by both; at least {FEW}"):
        system.models.promote(equal, "")
    compare(system)
    assert not [line for line in system.models.compare() if line.startswith("FAILED")]
    assert system.compared is not None
    assert system.compared.difference == pytest.approx((0, 0), abs=1e-4)  # batches differ, and so do the last bits
    [said] = system.models.promote(equal, "")
    assert "is served as icemix-v2" in said
    assert challenger.metric("icestream_challenger_events_total", outcome="stored") >= FEW
    assert challenger.metric("icestream_bridge_events_total") == 0
    # The next one, against the new champion.
    challenge(system, noisy)
    compare(system)
    with pytest.raises(ModelsError, match="stays the challenger: opening angle"):
        system.models.promote(noisy, "")
    assert recorder.metric("icestream_recorder_challenge_difference_degrees", bound="low") > 0
    wait_until(lambda: run_of(system, noisy), "the challenge is a run of MLflow", 60)
    run = run_of(system, noisy)
    assert run.data.metrics["difference/low_deg"] > 0
    assert run.data.tags["challenger"] == f"models:/{system.registry.model}/{noisy}"
    assert run_of(system, equal).info.run_id == run.info.run_id  # both versions name it
    aliases = {one.version: one.aliases for one in system.registry.versions()}
    assert aliases == {"1": (PREVIOUS,), equal: (CHAMPION,), noisy: (CHALLENGER,)}
    system.models.end()
    assert system.serving is not None
    assert system.serving.challenger is None
    wait_until(lambda: run_of(system, noisy).info.status == "FINISHED", "the run is ended", 30)
    with pytest.raises(ModelsError, match="there is no challenger"):
        system.models.end()
    assert set(system.answered_by()) == {"icemix", "icemix-v2"}


def run_of(system: System, version: str) -> Any:
    """The MLflow run of the latest challenge by a version."""
    client = MlflowClient(system.registry.url)
    tags = client.get_model_version(system.registry.model, version).tags
    return client.get_run(tags["challenge.run"]) if "challenge.run" in tags else None


def test_a_champion_that_refuses_events_is_withdrawn_and_stays_so_until_somebody_looks(system: System) -> None:
    """As challenger it harms nothing; promoted for a reason, the one before it is served again."""
    start_all(system)
    picky = system.register(make_picky)
    challenge(system, picky)
    put_events(system, 5, REFUSED)
    system.all_answered()
    wait_until(lambda: system.copies.refused == 5, "the challenger has refused them", 60)
    assert set(system.answered_by()) == {"icemix"}
    system.models.promote(picky, "it is so new")
    wait_until(lambda: asks(system, "icemix-v2"), "it answers")
    put_events(system, 30, REFUSED)
    wait_until(system.serves("icemix"), "the one before is served again", 60)
    problem = wait_until(lambda: read_report(system.redis).problems.get(CHAMPION), "it is said why", 30)
    assert "it was withdrawn: of the latest" in problem
    assert "refused" in problem
    system.models.rollback()
    wait_until(lambda: not read_report(system.redis).problems, "all is well", 30)
    assert system.serves("icemix")()


def test_a_champion_stays_where_the_one_before_refuses_the_same_events(system: System, tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    asked.mkdir()

    def leaves_a_mark(folder: Path) -> None:
        make_picky(folder)
        program, refuses = folder / "1" / "model.py", "            if (charge == 13).any():\n"
        mark = f"                (pathlib.Path({str(asked)!r}) / str(time.time_ns())).touch()\n"
        program.write_text(program.read_text().replace(refuses, refuses + mark))

    begin(system)
    system.bridge()
    for change in (leaves_a_mark, make_picky):
        system.models.promote(system.register(change), "a test")
    wait_until(lambda: asks(system, "icemix-v3"), "it answers", 60)
    put(system.redis, *(event(10**6 + number, charge=REFUSED) for number in range(30)))
    wait_until(lambda: len(list(asked.iterdir())) >= KEPT, "the one before was asked for them", 60)
    assert asks(system, "icemix-v3")
    assert system.serves("icemix-v3")()
    assert not read_report(system.redis).problems


def test_a_challenger_that_ends_triton_is_asked_no_more_and_costs_the_stream_no_event(system: System) -> None:
    challenger, _ = start_all(system)
    challenge(system, system.register(make_picky))
    put_events(system, 1, KILLS)

    def asked_no_more() -> bool:
        if not system.triton.alive:
            system.triton.revive()
            system.send(5)
        return "it is asked no more" in challenger.log

    wait_until(asked_no_more, "it is asked no more", 240)
    system.triton.revive()
    system.send(20)
    system.all_answered()
    assert set(system.answered_by()) == {"icemix"}
    assert system.redis.xlen(keys.REJECTED) == 0
    assert system.copies.refused == 1
    assert challenger.process.poll() is None


def test_a_share_that_is_no_number_ends_the_challenge_and_nothing_else(system: System) -> None:
    begin(system)
    system.bridge()
    version = system.register()
    system.models.challenge(version, 0.5)
    for one in ("1", version):
        system.registry.tag(one, SHARE_TAG, "a fifth")
    words = "is no number above 0 and at most 1"
    wait_until(lambda: words in read_report(system.redis).problems.get(CHALLENGER, ""), "it is said", 30)
    wait_until(lambda: system.serving and system.serving.challenger is None, "there is no challenger", 30)
    assert CHAMPION not in read_report(system.redis).problems
    assert system.serves("icemix")()
    assert asks(system, "icemix")


def put_events(system: System, number: int, charge: float) -> None:
    put(system.redis, *(event(system.emitted + one, charge=charge) for one in range(number)))
    system.emitted += number


def test_a_champion_whose_known_answers_are_wrong_is_withdrawn(system: System) -> None:
    """Its files are changed on the disk, and Triton is restarted."""
    deployer = begin(system)
    system.bridge()
    system.models.promote(system.register(), "a test")
    [folder] = system.deployed.iterdir()
    system.triton.kill()
    swap_axes(folder)
    system.triton.start()
    wait_until(system.serves("icemix"), "the one before is served again", 120)
    assert deployer.metric("icestream_deployer_withdrawals_total") == 1
    wait_until(lambda: asks(system, "icemix"), "it answers", 60)
    assert set(system.answered_by()) == {"icemix"}


def test_whatever_dies_meanwhile_a_challenge_counts_no_event_twice_and_the_stream_loses_none(system: System) -> None:
    challenger, recorder = start_all(system)
    challenge(system, system.register(), 0.5)
    for round_ in range(3):
        system.send_simulated(100)
        challenger.kill()
        recorder.kill()
        system.send_simulated(50)
        if round_ == 1:
            system.triton.kill()
            system.triton.start()
        challenger, recorder = system.challenger(), system.recorder()
    system.all_answered()
    wait_until(lambda: system.compared and system.compared.pairs > 0, "some are compared", 60)
    before = system.compared
    system.send_simulated(100)
    wait_until(lambda: system.compared and before and system.compared.pairs > before.pairs + 20, "and more", 60)
    system.all_answered()
    assert system.compared is not None
    copies = system.copies
    assert system.compared.pairs <= copies.answered <= copies.copied <= system.emitted
    assert len(system.answered_by()) == len(results(system.redis)) == system.emitted
    assert set(system.answered_by()) == {"icemix"}
