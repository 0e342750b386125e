"""Training and its yardstick, in seconds rather than an hour."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from export.checkpoint import SHIPPED, load_checkpoint
from export.evaluate import HeldOut, table
from export.served import ServedIceMix
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def held_out() -> HeldOut:
    return HeldOut(1500)


def test_the_shipped_weights_beat_linefit(held_out: HeldOut) -> None:
    network, _ = load_checkpoint(SHIPPED)
    angle, kappa = held_out.answers(ServedIceMix(network, held_out.detector).eval(), network.config.max_pulses)
    found, reference = held_out.groups(angle, kappa), held_out.groups(held_out.linefit_deg, kappa)
    assert found["tracks"].mean() <= 0.65 * reference["tracks"].mean()
    assert np.median(found["tracks"]) <= 0.75 * np.median(reference["tracks"])
    assert found["all"].mean() <= 0.75 * reference["all"].mean()
    assert found["confident half"].mean() < 0.5 * found["all"].mean()  # κ tells good answers from bad ones
    assert "confident half" in table(found, reference)


def test_linefit_works_on_tracks_and_not_on_cascades(held_out: HeldOut) -> None:
    by_kind = held_out.groups(held_out.linefit_deg, np.zeros(len(held_out.events)))
    assert np.median(by_kind["through-going"]) < 8
    assert 65 < np.median(by_kind["cascade"]) < 100


def test_training_can_be_interrupted_and_taken_up(tmp_path: Path) -> None:
    output = tmp_path / "weights.safetensors"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"}
    command = [
        sys.executable,
        ROOT / "export" / "train.py",
        "--output",
        output,
        "--check-events",
        "50",
        "--check-minutes",
        "0.05",
    ]
    interrupted = subprocess.Popen(
        [*command, "--minutes", "60"],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    resume = output.with_suffix(".resume.pt")
    from tests.conftest import wait_until

    wait_until(resume.exists, "a saved state", 120)
    interrupted.kill()
    interrupted.wait()
    assert not output.exists()
    done = subprocess.run(
        [*command, "--minutes", "0.1"], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "continuing" in done.stdout
    _, card = load_checkpoint(output)
    assert card["events"] > 0
    assert not resume.exists()
