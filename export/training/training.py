"""A network in training: its recipe, optimiser, moving average, and position in the event stream."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from export.evaluation.sample import Sample
from export.icemix import VARIANTS, IceMix
from export.served import ServedIceMix
from export.training.device_events import device_batches
from export.training.events import JITTER_NS, Place, RecordedPools, SimulatedPools, batches
from icestream.detector import nominal_icecube86
from icestream.sources.simulation import simulator

WARM_UP_STEPS, WEIGHT_DECAY, BETAS = 150, 0.02, (0.9, 0.98)
EMA_DECAY = 0.999
SIMULATION = "simulation"
ANGLE_FROM, VMF_SHARE = 0.7, 0.15
PLATEAU_STEPS, PLATEAU_DEG = 625, 80.0  # 40 000 events in batches of 64


@dataclass(frozen=True, kw_only=True)
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
    "cpu": Recipe(variant="small", minutes=150, batch=64, peak_rate=1.5e-3, short_limit=64, short_share=0.55),
    "gpu": Recipe(variant="accurate", minutes=25, batch=2048, peak_rate=1e-3, short_limit=96, short_share=0.4),
}


@dataclass(kw_only=True)
class Progress:
    """The progress of a training run; saved with the weights."""

    seed: int  # of the event stream
    network_seed: int = 0  # of the first weights; a restart takes the next
    events: int = 0
    steps: int = 0
    seconds: float = 0.0
    mlflow_run: str = ""  # all sittings draw one line
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
    """A network, its optimiser, its moving average and its progress."""

    recorded: Sample | None = None  # what it trains on instead of simulated events
    resumed_on = ""  # what the part before an interruption was trained on

    def __init__(self, recipe: Recipe, seed: int, start: tuple[IceMix, dict[str, Any]] | None = None):
        self.recipe = recipe
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.progress = Progress(seed=seed)
        self.started_from = None
        if start:
            self.started_from = start[1]
            if start[1].get("seed") == seed:  # its pool may have been cut into other batches: begin with the next
                self.progress.place = Place(start[1]["place"]["pool"] + 1)
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

    def on_plateau(self, angle_deg: float) -> bool:
        """Whether a network that began with random weights has learned nothing when it should have."""
        looked_at = PLATEAU_STEPS <= self.progress.steps < 2 * PLATEAU_STEPS and self.started_from is None
        return looked_at and angle_deg > PLATEAU_DEG

    def restart(self) -> None:
        """Restart with other initial weights; the event stream continues, and the time used counts."""
        self.progress = replace(self.progress, network_seed=self.progress.network_seed + 1, events=0, steps=0)
        self._take(self._new_network())

    @property
    def averaged(self) -> IceMix:
        network = self.average.module
        assert isinstance(network, IceMix)
        return network.eval()

    @property
    def share(self) -> float:
        """The share of the training time that is used."""
        return min(self.progress.seconds / (60 * self.recipe.minutes), 1.0)

    @property
    def limit(self) -> int:
        """Pulses of an event at this time."""
        short = self.share < self.recipe.short_share
        return self.recipe.short_limit if short else self.network.config.max_pulses

    def stream(self, workers: int) -> Iterator[tuple[tuple[Tensor, ...], Tensor, Place]]:
        """Batches from where the training stands, made on the GPU or by worker processes: inputs, truth, the place behind."""
        detector, progress, batch = nominal_icecube86(), self.progress, self.recipe.batch
        if found := self.recorded:
            pools = RecordedPools(found.events, found.truth, seed=progress.seed, batch=batch, limit=self.limit)
            return batches(pools, progress.place, workers=0)  # the events are here
        if self.device.type == "cuda":
            return device_batches(
                detector, progress.place, self.device, seed=progress.seed, batch=batch, limit=self.limit
            )
        return batches(SimulatedPools(detector, progress.seed, batch, self.limit), progress.place, workers)

    def step(self, inputs: tuple[Tensor, ...], truth: Tensor) -> tuple[float, float]:
        """One optimiser step; returns the mean opening angle in degrees, and the loss."""
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
        return math.degrees(angle.item()), loss.item()

    def save(self, path: Path) -> None:
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "recipe": asdict(self.recipe),
            "progress": asdict(self.progress),
            "started_from": self.started_from,
            "trained_on": self.trained_on,
        }
        part = path.with_suffix(".part")
        torch.save(state, part)
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Training":
        """A training as `save` left it."""
        state = torch.load(path, map_location="cpu", weights_only=True)
        training = cls(Recipe(**state["recipe"]), state["progress"]["seed"])
        training.network.load_state_dict(state["network"])
        training.average.load_state_dict(state["average"])
        training.optimiser.load_state_dict(state["optimiser"])
        training.progress = Progress(**{**state["progress"], "place": Place(**state["progress"]["place"])})
        training.started_from = state["started_from"]
        training.resumed_on = state.get("trained_on", SIMULATION)
        return training

    @property
    def trained_on(self) -> str:
        """The events, in words."""
        return self.recorded.name if self.recorded else SIMULATION

    def card(self, held_out: Sample, found: dict[str, float]) -> dict[str, Any]:
        """The metadata of the checkpoint: how it was made."""
        return {
            "simulation_version": simulator.VERSION,
            "detector": held_out.detector.name,
            "recipe": asdict(self.recipe),
            **{name: value for name, value in asdict(self.progress).items() if name != "mlflow_run"},
            "minutes": round(self.progress.seconds / 60, 1),
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else "CPU",
            "jitter_ns": JITTER_NS,
            "trained_on": self.trained_on,
            "held_out": {"sample": held_out.name, "events": len(held_out.events), **found},
            "started_from": self.started_from,
        }
