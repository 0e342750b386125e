"""How good a network is, beside LineFit, on simulated events it has never seen.

python export/evaluate.py                       # the shipped weights
python export/evaluate.py --checkpoint FILE --events 20000
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))

from export.checkpoint import SHIPPED, CheckpointError, load_checkpoint
from export.icemix import VARIANTS
from export.served import ServedIceMix
from export.training_data import HELD_OUT_SEED
from icestream.detector import Detector, nominal_icecube86
from icestream.direction import opening_angle
from icestream.event import Event
from icestream.linefit import linefit
from icestream.simulation.draws import NumpyDraws
from icestream.simulation.light import Ice
from icestream.simulation.particles import KINDS
from icestream.simulation.simulator import events_of, numpy_chunk
from icestream.tensors import pad

BATCH = 64

Angles = dict[str, NDArray[np.float64]]  # opening angles in degrees of each group of events


class HeldOut:
    """A fixed set of simulated events, their truth and LineFit's answer."""

    def __init__(self, events: int, detector: Detector | None = None, seed: int = HELD_OUT_SEED):
        self.detector = detector or nominal_icecube86()
        ice = Ice(self.detector, NumpyDraws(np.random.default_rng()))
        self.events: list[Event] = []
        truth, kind, number = [], [], 0
        while len(self.events) < events:
            chunk = numpy_chunk(ice, seed, number)
            self.events += events_of(chunk, number=number)
            truth.append(chunk.came_from)
            kind.append(chunk.kind)
            number += 1
        self.truth = np.concatenate(truth)  # (events, 3)
        self.kind = np.concatenate(kind)  # (events,)
        self.linefit = np.concatenate(
            [linefit(pad([event], event.n_pulses), self.detector.position_m) for event in self.events]
        )
        # An undefined LineFit counts as a right angle: what guessing gives in the mean.
        self.linefit_deg = np.degrees(opening_angle(self.linefit, self.truth))
        self.linefit_deg[~self.linefit.any(axis=1)] = 90.0

    def answers(self, served: ServedIceMix, limit: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Opening angles in degrees and κ, each (events,), of a network given at most `limit` pulses."""
        angle, kappa = np.empty(len(self.events)), np.empty(len(self.events))
        order = np.argsort([event.n_pulses for event in self.events], kind="stable")
        device = served.position.device
        with torch.inference_mode():
            for low in range(0, len(order), BATCH):
                rows = order[low : low + BATCH]
                batch = [self.events[row] for row in rows]
                inputs = pad(batch, min(max(event.n_pulses for event in batch), limit))
                vector, concentration, _ = served(*(torch.from_numpy(array).to(device) for array in inputs.values()))
                angle[rows] = np.degrees(opening_angle(vector.cpu().numpy(), self.truth[rows]))
                kappa[rows] = concentration.cpu().numpy()[:, 0]
        return angle, kappa

    def groups(self, angle: NDArray[np.float64], kappa: NDArray[np.float64]) -> Angles:
        """The angles of all events, of tracks, of each kind, and of the half with the larger κ."""
        of_kind = {name: angle[self.kind == number] for number, name in enumerate(KINDS)}
        return {
            "all": angle,
            "tracks": angle[self.kind < 2],
            **of_kind,
            "confident half": angle[kappa >= np.median(kappa)],
        }


def table(network: Angles, reference: Angles) -> str:
    """Mean and median of both, and their ratios, as lines of text."""
    lines = [
        f"{'opening angle, degrees':<22} {'events':>7} {'network mean/median':>21} {'LineFit mean/median':>21} {'ratio mean/median':>18}"
    ]
    for name, angles in network.items():
        mean, median, other = angles.mean(), np.median(angles), reference[name]
        pair = f"{mean:.1f} / {median:.1f}"
        against = f"{other.mean():.1f} / {np.median(other):.1f}"
        ratio = f"{mean / other.mean():.2f} / {median / np.median(other):.2f}"
        lines.append(f"{name:<22} {len(angles):>7} {pair:>21} {against:>21} {ratio:>18}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED)
    parser.add_argument(
        "--variant", choices=VARIANTS, help="which network the checkpoint holds, where it does not say so itself"
    )
    parser.add_argument("--events", type=int, default=5000, help="held-out events (5000)")
    parser.add_argument("--limit", type=int, help="most pulses the network is given (its own limit)")
    options = parser.parse_args()
    try:
        network, card = load_checkpoint(options.checkpoint, options.variant)
    except CheckpointError as error:
        sys.exit(f"evaluate: {error}")
    print(f"{options.checkpoint.name}: {card or 'no card'}")
    held_out = HeldOut(options.events)
    angle, kappa = held_out.answers(
        ServedIceMix(network, held_out.detector).eval(), options.limit or network.config.max_pulses
    )
    print(table(held_out.groups(angle, kappa), held_out.groups(held_out.linefit_deg, kappa)))


if __name__ == "__main__":
    main()
