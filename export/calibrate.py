"""Calibrate the κ and the radii of one of our checkpoints, in place, on simulated events of a seed of their own.

python export/calibrate.py                      # the shipped weights
python export/calibrate.py FILE.safetensors
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from export.calibration import coverage, fit
from export.checkpoint import SHIPPED, CheckpointError, load_checkpoint, save_checkpoint
from export.sample import Answers, Sample
from export.served import ServedIceMix
from export.training_data import CALIBRATION_SEED
from icestream.tensors import RADIUS_SHARES

EVENTS = 30_000


def calibrate(path: Path, events: int = EVENTS) -> None:
    """Fit a calibration and write it into the checkpoint's card; raises CheckpointError if there is no such checkpoint."""
    network, card = load_checkpoint(path)
    sample = Sample.simulated(events, CALIBRATION_SEED)
    answers = sample.answers(ServedIceMix(network, sample.detector).eval(), network.config.max_pulses)
    calibration = fit(answers.kappa, answers.angle_deg)
    card["calibration"] = {**calibration.table, "seed": CALIBRATION_SEED, "events": len(sample.events)}
    save_checkpoint(path, network, card)


def coverage_table(sample: Sample, answers: Answers) -> list[list[str]]:
    """Rows of group and the shares of its events within each radius; the first is the head."""
    rows = [["events", *(f"within the {share:.0%} radius" for share in RADIUS_SHARES)]]
    for name, chosen in sample.groups(answers.kappa).items():
        shares = coverage(answers.radius_deg[chosen], answers.angle_deg[chosen])
        rows.append([name, *(f"{share:.1%}" for share in shares)])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=SHIPPED)
    parser.add_argument("--events", type=int, default=EVENTS, help=f"to calibrate on ({EVENTS})")
    options = parser.parse_args()
    try:
        calibrate(options.checkpoint, options.events)
    except CheckpointError as error:
        sys.exit(f"calibrate: {error}")
    print(f"wrote {options.checkpoint}")


if __name__ == "__main__":
    main()
