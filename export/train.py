"""Train a member on simulated events.

    python export/train.py --preset cpu             # continues where the last run stopped, if it was stopped
    python export/train.py --preset gpu
    python export/train.py --preset cpu --start-from export/weights/small.safetensors --peak-rate 1e-3

The schedule follows the clock: a warm-up, then a cosine; the von Mises–Fisher loss for 70 % of the time, then the opening
angle itself with some of it. Pulses are few at first and up to the network's limit later. The events come from one stream
that a checkpoint knows its place in, so no event is ever seen twice.
"""

import argparse
import math
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from export.calibrate import EVENTS, calibrate
from export.checkpoint import WEIGHTS, load_checkpoint, save_checkpoint
from export.device_data import device_batches
from export.icemix import VARIANTS, IceMix
from export.sample import Sample, metrics, table
from export.served import ServedIceMix
from export.training_data import (
    CALIBRATION_SEED,
    HELD_OUT_SEED,
    JITTER_NS,
    TRAINING_SEED,
    Place,
    SimulatedPools,
    batches,
)
from icestream.detector import nominal_icecube86
from icestream.simulation import simulator

WARM_UP_STEPS, WEIGHT_DECAY, BETAS = 150, 0.02, (0.9, 0.98)
EMA_DECAY = 0.999
ANGLE_FROM, VMF_SHARE = 0.7, 0.15
PLATEAU_EVENTS, PLATEAU_DEG = 40_000, 80.0


@dataclass(frozen=True)
class Recipe:
    """What a training run does with its time.

    Attributes:
        variant: a name of `VARIANTS`.
        minutes: training time, earlier sittings of the same run included.
        batch: events of one step.
        peak_rate: the learning rate behind the warm-up.
        short_limit, short_share: at first this many pulses, for this share of the time.
    """

    variant: str
    minutes: float
    batch: int
    peak_rate: float
    short_limit: int
    short_share: float


PRESETS = {
    "cpu": Recipe("small", minutes=150, batch=64, peak_rate=1.5e-3, short_limit=64, short_share=0.55),
    "gpu": Recipe("accurate", minutes=25, batch=2048, peak_rate=1e-3, short_limit=96, short_share=0.4),
}


@dataclass
class Progress:
    """Where a training run stands; saved with the weights."""

    seed: int  # of the event stream
    network_seed: int = 0  # of the first weights; a restart takes the next
    events: int = 0
    steps: int = 0
    seconds: float = 0.0
    place: Place = field(default_factory=Place)


def vmf_loss(vector: Tensor, truth: Tensor) -> Tensor:
    """Minus the log density of a 3-D von Mises–Fisher distribution whose κ·mean is `vector`; both (B, 3) → (B,)

    log κ − κ − log(1 − e^−2κ) − log 2π + κ cos ψ with the sign turned, stable for small and large κ.
    """
    kappa = vector.norm(dim=1).clamp_min(1e-6)
    log_norm = kappa.log() - kappa - torch.log1p(-torch.exp(-2 * kappa)) - math.log(2 * math.pi)
    density: Tensor = log_norm + (vector * truth).sum(1)
    return -density


def angle_loss(vector: Tensor, truth: Tensor) -> Tensor:
    """Opening angles in radians, (B,), with a gradient that stays finite at 0 and π."""
    cross = torch.linalg.cross(vector, truth).square().sum(1)
    return torch.atan2((cross + 1e-12).sqrt(), (vector * truth).sum(1))


class Training:
    """A network, its optimiser, its moving average, and where they stand."""

    def __init__(self, recipe: Recipe, seed: int, start: tuple[IceMix, dict[str, Any]] | None = None):
        self.recipe = recipe
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.progress = Progress(seed)
        self.started_from = None
        if start:
            self.started_from = start[1]
            self.progress.place = Place(**start[1]["place"]) if start[1].get("seed") == seed else Place()
        self._take(start[0] if start else self._new_network())

    def _new_network(self) -> IceMix:
        torch.manual_seed(self.progress.network_seed)
        return IceMix(VARIANTS[self.recipe.variant])

    def _take(self, network: IceMix) -> None:
        self.network = network.to(self.device).train()
        self.average = torch.optim.swa_utils.AveragedModel(
            self.network,
            multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(EMA_DECAY),  # type: ignore[no-untyped-call]
        )
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        others = [p for p in self.network.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=self.recipe.peak_rate, betas=BETAS)
        self.served = ServedIceMix(self.network, nominal_icecube86()).to(self.device)

    def restart(self) -> None:
        """Begin again with other first weights; the event stream goes on."""
        earlier = self.progress
        self.progress = Progress(earlier.seed, earlier.network_seed + 1, seconds=earlier.seconds, place=earlier.place)
        self._take(self._new_network())

    @property
    def averaged(self) -> IceMix:
        network = self.average.module
        assert isinstance(network, IceMix)
        return network.eval()

    @property
    def share(self) -> float:
        """Of the time that is spent."""
        return min(self.progress.seconds / (60 * self.recipe.minutes), 1.0)

    @property
    def limit(self) -> int:
        """Pulses of an event at this time."""
        short = self.share < self.recipe.short_share
        return self.recipe.short_limit if short else self.network.config.max_pulses

    def stream(self, workers: int) -> Iterator[tuple[tuple[Tensor, ...], Tensor, Place]]:
        """Batches from where the training stands, made on the GPU or by worker processes: inputs, truth, the place behind."""
        detector, progress, batch = nominal_icecube86(), self.progress, self.recipe.batch
        if self.device.type == "cuda":
            return device_batches(detector, progress.seed, batch, self.limit, progress.place, self.device)
        return batches(SimulatedPools(detector, progress.seed, batch, self.limit), progress.place, workers)

    def step(self, inputs: tuple[Tensor, ...], truth: Tensor) -> float:
        """One optimiser step; returns the mean opening angle in degrees."""
        rate = self.recipe.peak_rate * min(
            (self.progress.steps + 1) / WARM_UP_STEPS, 0.5 * (1 + math.cos(math.pi * self.share)) + 0.01
        )
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        inputs, truth = tuple(tensor.to(self.device) for tensor in inputs), truth.to(self.device)
        # Autocast leaves sines, softmax and LayerNorm in float32.
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
            vector = self.network(self.served.features(*inputs)).float()
        truth = truth[:, [1, 0, 2]]  # the network keeps the published weights' swap of x and y
        angle, density = angle_loss(vector, truth).mean(), vmf_loss(vector, truth).mean()
        loss = density if self.share < ANGLE_FROM else angle + VMF_SHARE * density
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self.average.update_parameters(self.network)
        self.progress.steps += 1
        self.progress.events += len(truth)
        return math.degrees(angle.item())

    def save(self, path: Path) -> None:
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "recipe": asdict(self.recipe),
            "progress": asdict(self.progress),
            "started_from": self.started_from,
        }
        part = path.with_suffix(".part")
        torch.save(state, part)
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Training":
        """A training as `save` left it."""
        state = torch.load(path, weights_only=True)
        training = cls(Recipe(**state["recipe"]), state["progress"]["seed"])
        training.network.load_state_dict(state["network"])
        training.average.load_state_dict(state["average"])
        training.optimiser.load_state_dict(state["optimiser"])
        training.progress = Progress(**{**state["progress"], "place": Place(**state["progress"]["place"])})
        training.started_from = state["started_from"]
        return training

    def card(self, held_out: Sample, found: dict[str, float]) -> dict[str, Any]:
        """What the checkpoint says of its making."""
        return {
            "simulation_version": simulator.VERSION,
            "detector": held_out.detector.name,
            "recipe": asdict(self.recipe),
            **asdict(self.progress),
            "minutes": round(self.progress.seconds / 60, 1),
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else "CPU",
            "jitter_ns": JITTER_NS,
            "held_out": {"seed": HELD_OUT_SEED, "events": len(held_out.events), **found},
            "started_from": self.started_from,
        }


def train(training: Training, options: argparse.Namespace, console: Console) -> None:
    """Train until the recipe's time is over, saving as it goes; then write the checkpoint."""
    resume, budget = resume_path(options.output), 60 * training.recipe.minutes
    held_out = Sample.simulated(options.check_events, HELD_OUT_SEED)
    log_linefit(held_out)
    while training.share < 1:
        progress, limit = training.progress, training.limit
        recent: deque[float] = deque(maxlen=100)
        clock = time.monotonic()
        checked = progress.seconds
        for inputs, truth, place in training.stream(options.workers):
            recent.append(training.step(inputs, truth))
            progress.place = place
            now = time.monotonic()
            progress.seconds, clock = progress.seconds + now - clock, now
            mean = sum(recent) / len(recent)
            if progress.steps % 100 == 0:
                console.print(
                    f"{progress.seconds / 60:6.1f} of {training.recipe.minutes:g} min  {progress.events:>8} events  training angle {mean:5.1f}°"
                )
                mlflow.log_metric("training_angle_deg", mean, step=progress.events)
            if progress.events >= PLATEAU_EVENTS and mean > PLATEAU_DEG:
                console.print(
                    f"still above {PLATEAU_DEG:g}° after {progress.events} events: beginning with other weights"
                )
                training.restart()
                break
            if progress.seconds - checked > options.check_minutes * 60:
                check(training, held_out, console)
                training.save(resume)
                checked, clock = progress.seconds, time.monotonic()  # checks are not training time
            if training.limit != limit or progress.seconds >= budget:
                break
    save_checkpoint(options.output, training.averaged, training.card(held_out, check(training, held_out, console)))
    calibrate(options.output, options.calibrate_events)
    resume.unlink(missing_ok=True)
    console.print(f"wrote {options.output}")


def resume_path(output: Path) -> Path:
    return output.with_suffix(".resume.pt")


def check(training: Training, held_out: Sample, console: Console) -> dict[str, float]:
    """Held-out angles of the moving average, shown, logged and returned."""
    served = ServedIceMix(training.averaged, held_out.detector).to(training.device).eval()
    answers = held_out.answers(served, training.network.config.max_pulses)
    shown = Table(*(rows := table(held_out, answers))[0], box=None)
    for row in rows[1:]:
        shown.add_row(*row)
    console.print(shown)
    found = metrics(held_out, answers)
    mlflow.log_metrics(found, step=training.progress.events)
    return found


def log_linefit(held_out: Sample) -> None:
    """LineFit's angles on the same events, as the lines that the curves are read against."""
    for name, chosen in held_out.groups(np.zeros(len(held_out.events))).items():
        if name != "confident half":
            mlflow.log_metric(f"linefit_{name}_mean_deg", float(held_out.linefit_deg[chosen].mean()), step=0)
            mlflow.log_metric(f"linefit_{name}_median_deg", float(np.median(held_out.linefit_deg[chosen])), step=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="cpu", help="the recipe (cpu)")
    parser.add_argument(
        "--minutes", type=float, help="training time, earlier sittings of this run included (the preset's)"
    )
    parser.add_argument("--peak-rate", type=float, help="learning rate behind the warm-up (the preset's)")
    parser.add_argument("--start-from", type=Path, metavar="CHECKPOINT", help="weights to begin with (random ones)")
    parser.add_argument("--output", type=Path, help="the checkpoint to write (export/weights/VARIANT.safetensors)")
    parser.add_argument("--seed", type=int, default=TRAINING_SEED, help=f"of the event stream ({TRAINING_SEED})")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (1)")
    parser.add_argument("--workers", type=int, default=1, help="processes that simulate (1)")
    parser.add_argument("--check-events", type=int, default=2000, help="held-out events of each check (2000)")
    parser.add_argument("--calibrate-events", type=int, default=EVENTS, help=f"to calibrate κ on ({EVENTS})")
    parser.add_argument("--check-minutes", type=float, default=10, help="between checks (10)")
    options = parser.parse_args()
    if options.seed in (HELD_OUT_SEED, CALIBRATION_SEED):
        parser.error(f"seed {options.seed} makes the events that the network is judged by: choose another")
    recipe = PRESETS[options.preset]
    given = {"minutes": options.minutes, "peak_rate": options.peak_rate}
    recipe = replace(recipe, **{name: value for name, value in given.items() if value is not None})
    options.output = options.output or WEIGHTS / f"{recipe.variant}.safetensors"
    torch.set_num_threads(options.threads)
    console = Console(soft_wrap=True)
    resume = resume_path(options.output)
    if resume.exists():
        training = Training.load(resume)
        training.recipe = recipe
        console.print(
            f"continuing {resume}: {training.progress.events} events, {training.progress.seconds / 60:.0f} minutes so far"
        )
    else:
        training = Training(recipe, options.seed, load_checkpoint(options.start_from) if options.start_from else None)
    mlflow.set_experiment("icemix-training")
    with mlflow.start_run(run_name=options.output.stem):
        mlflow.log_params({**asdict(recipe), "seed": options.seed, "preset": options.preset})
        train(training, options, console)


if __name__ == "__main__":
    main()
