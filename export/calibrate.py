"""Calibrate the κ and the radii of a checkpoint of ours in place, or of a network of one's own beside its checkpoint.

On simulated events of a seed of their own.

    python export/calibrate.py                      # the shipped weights
    python export/calibrate.py FILE.safetensors
    python export/calibrate.py --module mine.network:load mine.pt       # → mine.pt.calibration.json, which to_onnx.py takes
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from icestream.service.extras import require

require("export")

import argparse
from typing import Any

import torch
from torch import nn

from export.calibration import fit
from export.checkpoint import SHIPPED, CheckpointError, load_checkpoint, save_checkpoint
from export.evaluation.sample import Sample
from export.network import calibration_file, own, write_calibration
from export.served import ServedIceMix
from export.training.events import CALIBRATION_SEED
from icestream.detector import nominal_icecube86

EVENTS = 30_000


def calibrate(path: Path, events: int = EVENTS, recorded: Sample | None = None) -> None:
    """Fit a calibration and write it into the checkpoint's card; raises CheckpointError if there is no such checkpoint.

    Args:
        events: simulated ones to fit on,
        recorded: or these in their place.
    """
    network, card = load_checkpoint(path) if path.suffix == ".safetensors" else (None, {})
    if network is None or not card:
        raise CheckpointError(f"{path} was not made by export/train.py: its κ belongs to what it was trained on")
    served = ServedIceMix(network, nominal_icecube86()).eval()
    card["calibration"] = _table(served, network.config.max_pulses, recorded or _simulated(events))
    save_checkpoint(path, network, card)


def calibrate_own(module: str, path: Path, events: int = EVENTS) -> None:
    """Fit a calibration of a network of one's own and write it beside the checkpoint; raises CheckpointError."""
    network = own(module, path, calibrated=False)
    write_calibration(path, _table(network.served, network.max_pulses, _simulated(events)))


def _simulated(events: int) -> Sample:
    return Sample.simulated(events, CALIBRATION_SEED)


def _table(served: nn.Module, limit: int, sample: Sample) -> dict[str, Any]:
    answers = sample.answers(served.to("cuda" if torch.cuda.is_available() else "cpu"), limit)
    return {**fit(answers.kappa, answers.angle_deg).table, "sample": sample.name, "events": len(sample.events)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=SHIPPED)
    parser.add_argument(
        "--module", metavar="PACKAGE.FILE:FUNCTION", help="a network of your own: what loads the checkpoint"
    )
    parser.add_argument("--events", type=int, default=EVENTS, help=f"to calibrate on ({EVENTS})")
    options = parser.parse_args()
    if options.events <= 0:
        parser.error("--events must be more than 0")
    try:
        if options.module:
            calibrate_own(options.module, options.checkpoint, options.events)
        else:
            calibrate(options.checkpoint, options.events)
    except CheckpointError as error:
        sys.exit(f"calibrate: {error}")
    print(f"wrote {calibration_file(options.checkpoint) if options.module else options.checkpoint}")


if __name__ == "__main__":
    main()
