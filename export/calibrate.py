"""Calibrate the κ and the radii of one of our checkpoints, in place, on simulated events of a seed of their own.

python export/calibrate.py                      # the shipped weights
python export/calibrate.py FILE.safetensors
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from icestream.service.extras import require

require("export")

import argparse

import torch

from export.calibration import fit
from export.checkpoint import SHIPPED, CheckpointError, load_checkpoint, save_checkpoint
from export.evaluation.sample import Sample
from export.served import ServedIceMix
from export.training.events import CALIBRATION_SEED

EVENTS = 30_000


def calibrate(path: Path, events: int = EVENTS) -> None:
    """Fit a calibration and write it into the checkpoint's card; raises CheckpointError if there is no such checkpoint."""
    network, card = load_checkpoint(path) if path.suffix == ".safetensors" else (None, {})
    if network is None or not card:
        raise CheckpointError(f"{path} was not made by export/train.py: its κ belongs to what it was trained on")
    sample = Sample.simulated(events, CALIBRATION_SEED)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    answers = sample.answers(ServedIceMix(network, sample.detector).to(device).eval(), network.config.max_pulses)
    calibration = fit(answers.kappa, answers.angle_deg)
    card["calibration"] = {**calibration.table, "seed": CALIBRATION_SEED, "events": len(sample.events)}
    save_checkpoint(path, network, card)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=SHIPPED)
    parser.add_argument("--events", type=int, default=EVENTS, help=f"to calibrate on ({EVENTS})")
    options = parser.parse_args()
    if options.events <= 0:
        parser.error("--events must be more than 0")
    try:
        calibrate(options.checkpoint, options.events)
    except CheckpointError as error:
        sys.exit(f"calibrate: {error}")
    print(f"wrote {options.checkpoint}")


if __name__ == "__main__":
    main()
