"""The model card, from simulated events and from a folder of the competition's files."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from export.checkpoint import SHIPPED, load_checkpoint
from export.evaluation.model_card import Report, model_card
from export.evaluation.parity import Parity
from export.evaluation.sample import Sample
from export.served import ServedIceMix
from export.training.events import HELD_OUT_SEED
from icestream.detector import nominal_icecube86
from icestream.direction import opening_angle
from icestream.sources.kaggle import write_folder
from icestream.sources.simulation.simulator import simulated_events
from tests.servers import UNMEASURED
from tests.waiting import ROOT

PICTURES = {"opening_angle.png", "confidence.png", "sky.png"}


def evaluate(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*UNMEASURED, sys.executable, str(ROOT / "export" / "evaluate.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def test_the_card_of_simulated_events_tells_their_kinds_and_no_score() -> None:
    network, made = load_checkpoint(SHIPPED)
    sample = Sample.simulated(300, HELD_OUT_SEED)
    ones = np.ones(3)
    parity = Parity(angle_deg=ones, own_deg=ones, spread=ones, own_spread=ones, kappa=ones, tied=ones == 0)
    card = model_card(
        Report(
            checkpoint=SHIPPED.name,
            network=network,
            card=made,
            sample=sample,
            answers=sample.answers(ServedIceMix(network, sample.detector).eval(), network.config.max_pulses),
            shifted_deg={-1000.0: 1.0},
            onnx_parity=parity,
            triton_parity=parity,
            events_per_second={64: 1.0},
            onnx_mb=1.0,
        ),
        "card",
    )
    assert "| through-going |" in card
    assert "within the 90% radius" in card
    assert "must not be used" in card
    assert "score" not in card


def test_the_card_of_the_competitions_files_has_its_score(tmp_path: Path) -> None:
    events = simulated_events(nominal_icecube86(), seed=9, run_id=0)
    write_folder(tmp_path / "icecube", [next(events) for _ in range(200)])
    done = evaluate("--kaggle", tmp_path / "icecube", "--output", tmp_path / "card.md")
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "card.md").read_text()
    assert "On 200 events of icecube; geometry: IceCube-86 nominal." in card
    assert "The competition's score, the mean angle in radians: **0.5" in card or "radians: **0.6" in card
    assert "-1000 ns" in card
    assert "| Triton, to PyTorch in double precision | median" in card
    assert "through-going" not in card
    assert {path.name for path in (tmp_path / "card").iterdir()} == PICTURES


def test_a_folder_without_truth_is_refused_in_words(tmp_path: Path) -> None:
    events = simulated_events(nominal_icecube86(), seed=9, run_id=0)
    write_folder(tmp_path / "icecube", [next(events) for _ in range(20)])
    (tmp_path / "icecube" / "train_meta.parquet").unlink()
    done = evaluate("--kaggle", tmp_path / "icecube", "--output", tmp_path / "card.md")
    assert done.returncode == 1
    assert "the truth of no event is known" in done.stderr
    assert "Traceback" not in done.stderr


def test_events_of_the_files_are_those_that_were_simulated(tmp_path: Path) -> None:
    pairs = [pair for pair, _ in zip(simulated_events(nominal_icecube86(), seed=9, run_id=0), range(50), strict=False)]
    write_folder(tmp_path / "icecube", pairs)
    read = Sample.kaggle(tmp_path / "icecube", 50, nominal_icecube86())
    assert [event.n_pulses for event in read.events] == [event.n_pulses for event, _ in pairs]
    made = Sample.simulated(50, 9)
    assert opening_angle(read.truth, made.truth[:50]).max() < 1e-6
