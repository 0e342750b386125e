"""Training and its yardstick, in seconds rather than hours."""

import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.checkpoint import SHIPPED, load_checkpoint
from export.evaluation.sample import Sample
from export.train import WORSE_THAN_LINEFIT, recorded
from export.training import device_events
from export.training.device_events import TorchDraws, device_batches, padded
from export.training.events import HELD_OUT_SEED, Place, SimulatedPools, batches
from export.training.training import PLATEAU_STEPS, PRESETS, Training
from icestream.detector import nominal_icecube86
from icestream.sources.kaggle import write_folder
from icestream.sources.simulation.culling import CpuIce
from icestream.sources.simulation.light import Ice
from icestream.sources.simulation.simulator import events_of, numpy_chunk, simulate_chunk, simulated_events
from icestream.sources.source import SourceError
from tests.waiting import ROOT, wait_until


def test_linefit_works_on_tracks_and_not_on_cascades() -> None:
    sample = Sample.simulated(1000, HELD_OUT_SEED)
    assert np.median(sample.linefit_deg[sample.kind == "through-going"]) < 8
    assert 65 < np.median(sample.linefit_deg[sample.kind == "cascade"]) < 100


def pools(seed: int = 1, limit: int = 64) -> SimulatedPools:
    return SimulatedPools(nominal_icecube86(), seed, batch=64, limit=limit)


def read(place: Place, number: int, workers: int = 0) -> list[Any]:
    return list(islice(batches(pools(), place, workers), number))


def assert_alike(one: list[Any], other: list[Any]) -> None:
    for (inputs, truth, place), (inputs_2, truth_2, place_2) in zip(one, other, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(inputs, inputs_2, strict=True))
        assert torch.equal(truth, truth_2)
        assert place == place_2


def test_the_event_stream_goes_on_to_the_bit_where_it_was_left() -> None:
    whole = read(Place(), 40)
    assert_alike(read(whole[6][2], 5), whole[7:12])
    last_of_pool = max(index for index, (_, _, place) in enumerate(whole) if place.pool == 0)
    assert_alike(read(whole[last_of_pool][2], 3), whole[last_of_pool + 1 : last_of_pool + 4])


def test_the_event_stream_does_not_depend_on_who_makes_it() -> None:
    assert_alike(read(Place(), 30, workers=2), read(Place(), 30))


def test_no_event_comes_twice() -> None:
    seen = {tuple(row) for _, truth, _ in read(Place(), 40) for row in truth.tolist()}
    assert len(seen) == 40 * 64


def test_the_device_makes_the_same_kind_of_events() -> None:
    """PyTorch's arrays on the CPU stand for a GPU's: other random numbers, the same distributions."""
    detector, draws = nominal_icecube86(), TorchDraws(torch.device("cpu"), 5)
    chunk = simulate_chunk(Ice(detector, draws), draws, 3000)
    pulses = torch.bincount(chunk.pulses.event).numpy()
    expected = Sample.simulated(len(pulses), 4).n_pulses
    # A few very bright events carry the mean: cut off, it scatters by some 3 %.
    assert np.minimum(pulses, 500).mean() == pytest.approx(np.minimum(expected, 500).mean(), rel=0.12)
    assert np.median(pulses) == pytest.approx(np.median(expected), rel=0.1)
    (sensor_id, time, charge, auxiliary, n_pulses), truth = padded(chunk, 64, draws)
    assert torch.linalg.norm(truth, dim=1) == pytest.approx(1, abs=1e-5)
    assert (n_pulses[:, 0].numpy() == pulses).all()
    used = sensor_id >= 0
    assert (used.sum(1).numpy() == np.minimum(pulses, 64)).all()
    assert (charge[used] > 0).all()
    for row in range(50):
        assert (time[row][used[row]].diff() >= 0).all()
        coincident = int((~chunk.pulses.auxiliary[chunk.pulses.event == row]).sum())
        assert int((~auxiliary[row][used[row]]).sum()) == min(coincident, 64)


def test_the_devices_stream_goes_on_where_it_was_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_events, "PARTICLES", 1024)

    def stream(place: Place, number: int) -> list[Any]:
        return list(
            islice(device_batches(nominal_icecube86(), place, torch.device("cpu"), seed=1, batch=512, limit=64), number)
        )

    whole = stream(Place(), 4)
    assert_alike(stream(whole[1][2], 2), whole[2:])


def test_a_training_that_was_saved_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    def steps(training: Training, number: int) -> Training:
        for inputs, truth, place in islice(training.stream(workers=0), number):
            training.step(inputs, truth)
            training.progress.place = place
        return training

    whole = steps(Training(PRESETS["cpu"], seed=1), 5)
    interrupted = steps(Training(PRESETS["cpu"], seed=1), 3)
    interrupted.save(tmp_path / "state.pt")
    resumed = steps(Training.load(tmp_path / "state.pt"), 2)
    assert resumed.progress == whole.progress
    for one, other in ((resumed.network, whole.network), (resumed.average, whole.average)):
        for name, tensor in one.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[name]), name


@pytest.mark.parametrize("preset", PRESETS)
def test_only_a_network_that_should_have_learned_is_on_a_plateau(preset: str) -> None:
    training = Training(PRESETS[preset], seed=1)
    training.progress.steps = PLATEAU_STEPS - 1
    assert not training.on_plateau(88.0)
    training.progress.steps = PLATEAU_STEPS
    assert training.on_plateau(88.0)
    assert not training.on_plateau(60.0)
    training.progress.steps = 2 * PLATEAU_STEPS
    assert not training.on_plateau(88.0)  # it has learned: a hard batch is no reason to lose it


def test_long_events_are_not_left_out() -> None:
    """A pool's 1168 events make 18 batches; the 16 that are left over must not be its longest."""
    used = {int(n) for inputs, _, place in read(Place(), 18) for n in inputs[4] if place.pool == 0}
    ice = CpuIce(nominal_icecube86())
    chunks = [numpy_chunk(ice, 1, number) for number in range(8)]
    longest = sorted(event.n_pulses for chunk in chunks for event in events_of(chunk))[-16:]
    assert len(used & set(longest)) > 10


def test_a_restart_begins_with_other_weights_and_goes_on_in_the_stream() -> None:
    training = Training(PRESETS["cpu"], seed=1)
    before = training.network.proj_out.weight.clone()
    training.progress.place, training.progress.events, training.progress.seconds = Place(3, 2), 50_000, 60.0
    training.restart()
    assert not torch.equal(training.network.proj_out.weight, before)
    assert training.progress.place == Place(3, 2)
    assert (training.progress.events, training.progress.steps, training.progress.network_seed) == (0, 0, 1)
    assert training.progress.seconds == 60.0  # the time is spent


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    script, output = str(ROOT / "export" / "train.py"), str(tmp_path / "weights.safetensors")
    few = ["--check-events", "50", "--check-minutes", "0.05", "--calibrate-events", "500"]
    return [sys.executable, script, "--output", output, *few]


def test_training_can_be_interrupted_and_taken_up(tmp_path: Path, command: list[str]) -> None:
    output = tmp_path / "weights.safetensors"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"}
    start = [*command, "--minutes", "60", "--start-from", str(SHIPPED)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    interrupted = subprocess.Popen(start, env=environment, cwd=tmp_path, **pipes)  # type: ignore[call-overload]
    resume = output.with_suffix(".resume.pt")
    wait_until(resume.exists, "a saved state", 120)
    at_first_save = resume.stat().st_mtime_ns
    interrupted.terminate()
    _, said = interrupted.communicate(timeout=60)
    assert said.endswith(f"stopped; the same command goes on from {resume}\n")
    assert "Traceback" not in said
    assert resume.stat().st_mtime_ns > at_first_save
    assert not output.exists()
    seen = torch.load(resume, weights_only=True)["progress"]
    done = subprocess.run(
        [*command, "--minutes", str(seen["seconds"] / 60 + 0.1)],  # of which a slow machine has used some already
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "continuing" in done.stdout
    _, card = load_checkpoint(output)
    _, shipped = load_checkpoint(SHIPPED)
    assert card["events"] > seen["events"] > 0
    assert (card["place"]["pool"], card["place"]["batch"]) > (seen["place"]["pool"], seen["place"]["batch"])
    assert card["started_from"] == shipped
    assert seen["place"]["pool"] > shipped["place"]["pool"]
    assert card["calibration"]["events"] >= 500
    assert not resume.exists()


def test_recorded_events_are_trained_on_and_others_of_them_judge(tmp_path: Path, command: list[str]) -> None:
    """And too few of them are refused."""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"}
    folder = tmp_path / "recorded"
    write_folder(folder, islice(simulated_events(nominal_icecube86(), 9, run_id=0), 1500))
    started = [*command, "--kaggle", str(folder), "--start-from", str(SHIPPED), "--peak-rate", "1e-4"]
    done = subprocess.run(
        [*started, "--minutes", "0.05"], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    _, card = load_checkpoint(tmp_path / "weights.safetensors")
    assert card["trained_on"] == "1200 of 1500 events of recorded"
    assert card["held_out"]["sample"] == card["calibration"]["sample"] == "150 of 1500 events of recorded"
    with pytest.raises(SourceError, match="the truth of 100 events is known, at least 1280 are needed"):
        recorded(folder, 100, 64)


def test_the_events_that_a_network_is_judged_by_are_not_for_training(tmp_path: Path, command: list[str]) -> None:
    done = subprocess.run([*command, "--seed", str(HELD_OUT_SEED)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "makes the events that the network is judged by" in done.stderr


def test_a_checkpoint_that_is_there_is_not_replaced(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"precious")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "is there already: give another --output, or --overwrite" in done.stderr
    assert (tmp_path / "weights.safetensors").read_bytes() == b"precious"


def test_weights_that_are_worse_than_linefit_are_called_so(tmp_path: Path, command: list[str]) -> None:
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"}
    done = subprocess.run(
        [*command, "--minutes", "0.02"], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == WORSE_THAN_LINEFIT, done.stderr
    assert "these weights are worse than LineFit: 0.02 minutes were too few" in done.stdout
