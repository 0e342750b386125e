"""Train the shipped member on simulated events.

    python export/train.py --minutes 60             # continues where the last run stopped, if it was stopped

The schedule follows the clock: a warm-up, then a cosine; the von Mises–Fisher loss for 70 % of the time, then the opening
angle itself with some of it. Pulses are few at first and up to the network's limit later.
"""

import argparse
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import torch
from rich.console import Console
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from export.checkpoint import SHIPPED, save_checkpoint
from export.evaluate import HeldOut, table
from export.icemix import VARIANTS, IceMix
from export.served import ServedIceMix
from export.training_data import HELD_OUT_SEED, TRAINING_SEED, SimulatedBatches, loader
from icestream.detector import nominal_icecube86
from icestream.simulation import simulator

BATCH = 64
PEAK_RATE, WARM_UP_STEPS, WEIGHT_DECAY, BETAS = 1.5e-3, 150, 0.02, (0.9, 0.98)
EMA_DECAY = 0.999
SHORT_LIMIT, SHORT_SHARE = 64, 0.55  # at first this many pulses, for this share of the time
ANGLE_FROM, VMF_SHARE = 0.7, 0.15
PLATEAU_EVENTS, PLATEAU_DEG = 40_000, 80.0


@dataclass
class Progress:
    """Where a training run stands; saved with the weights."""

    seed: int
    events: int = 0
    steps: int = 0
    seconds: float = 0.0
    next_chunk: int = 0


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

    def __init__(self, variant: str, seed: int):
        torch.manual_seed(seed)
        self.progress = Progress(seed)
        self.network = IceMix(VARIANTS[variant])
        self.average = torch.optim.swa_utils.AveragedModel(
            self.network,
            multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(EMA_DECAY),  # type: ignore[no-untyped-call]
        )
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        others = [p for p in self.network.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=BETAS)
        self.served = ServedIceMix(self.network, nominal_icecube86())

    @property
    def averaged(self) -> IceMix:
        network = self.average.module
        assert isinstance(network, IceMix)
        return network.eval()

    def step(self, inputs: tuple[Tensor, ...], truth: Tensor, share: float) -> float:
        """One optimiser step at this share of the time; returns the mean opening angle in degrees."""
        rate = PEAK_RATE * min(
            (self.progress.steps + 1) / WARM_UP_STEPS, 0.5 * (1 + math.cos(math.pi * min(share, 1.0))) + 0.01
        )
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        vector = self.network(self.served.features(*inputs))
        truth = truth[:, [1, 0, 2]]  # the network keeps the published weights' swap of x and y
        angle, density = angle_loss(vector, truth).mean(), vmf_loss(vector, truth).mean()
        loss = density if share < ANGLE_FROM else angle + VMF_SHARE * density
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
            "progress": vars(self.progress),
        }
        part = path.with_suffix(".part")
        torch.save(state, part)
        part.replace(path)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.progress = Progress(**state["progress"])


def train(options: argparse.Namespace, console: Console) -> None:
    budget = options.minutes * 60
    resume = options.output.with_suffix(".resume.pt")
    training = Training("small", options.seed)
    if resume.exists():
        training.load(resume)
        console.print(
            f"continuing {resume}: {training.progress.events} events, {training.progress.seconds / 60:.0f} minutes so far"
        )
    held_out = HeldOut(options.check_events)
    limit = training.network.config.max_pulses
    progress = training.progress
    while progress.seconds < budget:
        short = progress.seconds < SHORT_SHARE * budget
        until = SHORT_SHARE * budget if short else budget
        data = SimulatedBatches(
            nominal_icecube86(), progress.seed, progress.next_chunk, BATCH, SHORT_LIMIT if short else limit
        )
        clock, checked, recent = time.monotonic(), progress.seconds, []
        for inputs, truth, number in loader(data, options.workers):
            recent.append(training.step(inputs, truth, progress.seconds / budget))
            progress.next_chunk = max(progress.next_chunk, number)
            now = time.monotonic()
            progress.seconds, clock = progress.seconds + now - clock, now
            if progress.steps % 100 == 0:
                mean = sum(recent[-100:]) / len(recent[-100:])
                console.print(
                    f"{progress.seconds / 60:6.1f} of {options.minutes} min  {progress.events:>8} events  {progress.events / progress.seconds:5.0f}/s  training angle {mean:5.1f}°"
                )
                mlflow.log_metric("training_angle_deg", mean, step=progress.events)
                if progress.events >= PLATEAU_EVENTS and mean > PLATEAU_DEG:
                    raise SystemExit(
                        f"still above {PLATEAU_DEG}° after {progress.events} events: remove {resume} and start with another --seed"
                    )
            if progress.seconds - checked > options.check_minutes * 60 or progress.seconds >= until:
                checked = progress.seconds
                check(training, held_out, limit, console)
                training.save(resume)
                clock = time.monotonic()  # checks are not training time
            if progress.seconds >= until:
                break
    metrics = check(training, held_out, limit, console)
    card = {
        "trained_on": f"simulation version {simulator.VERSION}, {held_out.detector.name}",
        **vars(progress),
        "minutes": round(progress.seconds / 60, 1),
        "held_out": metrics,
    }
    save_checkpoint(options.output, training.averaged, card)
    resume.unlink(missing_ok=True)
    console.print(f"wrote {options.output}")


def check(training: Training, held_out: HeldOut, limit: int, console: Console) -> dict[str, Any]:
    """Held-out angles of the moving average, shown, logged and returned."""
    angle, kappa = held_out.answers(ServedIceMix(training.averaged, held_out.detector).eval(), limit)
    groups = held_out.groups(angle, kappa)
    console.print(table(groups, held_out.groups(held_out.linefit_deg, kappa)))
    metrics = {
        f"{name.replace(' ', '_')}_{what}_deg": round(float(value), 2)
        for name, a in groups.items()
        for what, value in (("mean", a.mean()), ("median", float(torch.tensor(a).median())))
    }
    mlflow.log_metrics(metrics, step=training.progress.events)
    return metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="training time, earlier sittings included (60)")
    parser.add_argument("--output", type=Path, default=SHIPPED, help="the checkpoint to write")
    parser.add_argument("--seed", type=int, default=TRAINING_SEED)
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (1)")
    parser.add_argument("--workers", type=int, default=1, help="processes that simulate (1)")
    parser.add_argument("--check-events", type=int, default=2000, help="held-out events of each check (2000)")
    parser.add_argument("--check-minutes", type=float, default=10, help="between checks (10)")
    options = parser.parse_args()
    if options.seed == HELD_OUT_SEED:
        parser.error(f"seed {HELD_OUT_SEED} makes the held-out events: choose another")
    torch.set_num_threads(options.threads)
    mlflow.set_experiment("icemix-training")
    with mlflow.start_run(run_name=options.output.stem):
        mlflow.log_params({"minutes": options.minutes, "seed": options.seed, "batch": BATCH, "peak_rate": PEAK_RATE})
        train(options, Console(soft_wrap=True))


if __name__ == "__main__":
    main()
