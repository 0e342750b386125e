"""Differences between the answers of an exported model and PyTorch's."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from export.served import ServedIceMix
from icestream.detector import DOM_COUNT, nominal_icecube86
from icestream.direction import opening_angle
from icestream.sources.simulation.simulator import simulated_events
from icestream.tensors import OUTPUTS, PADDING_SENSOR, Arrays, pad


def example_inputs(generator: np.random.Generator, batch: int, length: int, padded: int) -> Arrays:
    """Random pulses, `length` of them followed by padding whose other columns hold random numbers."""
    shape = (batch, padded)
    sensor_id = generator.integers(0, DOM_COUNT, shape, dtype=np.int32)
    sensor_id[:, length:] = PADDING_SENSOR
    return {
        "sensor_id": sensor_id,
        "time": np.sort(generator.uniform(6e3, 16e3, shape).astype(np.float32), axis=1),
        "charge": generator.exponential(1.5, shape).astype(np.float32) + np.float32(0.025),
        "auxiliary": generator.random(shape) < 0.5,
        "n_pulses": np.full((batch, 1), length, np.int32),
    }


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """The largest accepted differences.

    Attributes:
        median_deg, worst_deg: of all answers' directions.
        confident_deg: of the share `share` of the answers with κ ≥ 1.
        spread: of κ and the radii of the same share of those, relative.
    """

    median_deg: float
    worst_deg: float
    confident_deg: float
    spread: float
    share: float = 1.0


# An answer of small κ is a short vector, and float32's last bits turn it by some 1e-4°/κ.
SINGLE = Tolerance(median_deg=1e-4, worst_deg=1e-2, confident_deg=1e-3, spread=1e-3)
# Of two latent neighbours that are as far in float32, one or the other may be taken.
SINGLE_DYNEDGE = Tolerance(median_deg=1e-4, worst_deg=1.0, confident_deg=1e-3, spread=1e-3, share=0.99)
HALF = Tolerance(median_deg=0.1, worst_deg=10.0, confident_deg=1.0, spread=0.05)


@dataclass(frozen=True)
class Parity:
    """How far answers lie from PyTorch's."""

    angle_deg: NDArray[np.float64]  # (events,) opening angle
    spread: NDArray[np.float64]  # (events,) largest relative difference of κ and the radii
    kappa: NDArray[np.float64]  # (events,) of PyTorch

    @property
    def median_deg(self) -> float:
        return float(np.median(self.angle_deg))

    @property
    def worst_deg(self) -> float:
        return float(self.angle_deg.max())

    def confident_deg(self, share: float = 1.0) -> float:
        """The angle that this share of the answers with κ ≥ 1 stays below; 0 if there are none."""
        return self._confident(self.angle_deg, share)

    def confident_spread(self, share: float = 1.0) -> float:
        """The same of κ and the radii, relative."""
        return self._confident(self.spread, share)

    def _confident(self, values: NDArray[np.float64], share: float) -> float:
        confident = values[self.kappa >= 1]
        return float(np.quantile(confident, share)) if len(confident) else 0.0

    def __str__(self) -> str:
        return (
            f"{len(self.angle_deg)} events, opening angle to PyTorch's answer: median {self.median_deg:.1e}°, worst {self.worst_deg:.1e}°, "
            f"worst where κ ≥ 1 {self.confident_deg():.1e}°; κ and radii there within {self.confident_spread():.1e}"
        )

    def fault(self, right: Tolerance) -> str | None:
        """What is out of tolerance, in words; None if nothing is."""
        if (
            self.median_deg <= right.median_deg
            and self.worst_deg <= right.worst_deg
            and self.confident_deg(right.share) <= right.confident_deg
            and self.confident_spread(right.share) <= right.spread
        ):
            return None
        return (
            f"{self}; right are {right.median_deg}°, {right.worst_deg}° and, for {right.share:.0%} where κ ≥ 1, "
            f"{right.confident_deg}° and {right.spread}"
        )


def cut_batches(limit: int) -> Iterator[Arrays]:
    """224 simulated events, cut to 28 lengths from 1 to the limit: confident or not."""
    generator = np.random.default_rng(1)
    events = [event for event, _ in islice(simulated_events(nominal_icecube86(), seed=0, run_id=0), 400)]
    for length in [1, 2, 3, limit, *generator.integers(1, limit + 1, 24).tolist()]:
        long_enough = [event for event in events if event.n_pulses >= length]
        yield pad([long_enough[index] for index in generator.integers(len(long_enough), size=8)], length)


def stream_batches(limit: int) -> Iterator[Arrays]:
    """2048 simulated events as the stream delivers them."""
    events = [event for event, _ in islice(simulated_events(nominal_icecube86(), seed=0, run_id=0), 2048)]
    events.sort(key=lambda event: event.n_pulses)
    for low in range(0, len(events), 32):
        batch = events[low : low + 32]
        yield pad(batch, min(batch[-1].n_pulses, limit))


Ask = Callable[[Arrays], Mapping[str, NDArray[Any]]]


def onnx_runtime(model: bytes) -> Ask:
    """Asks ONNX Runtime on the CPU."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return lambda inputs: dict(zip(OUTPUTS, session.run(list(OUTPUTS), inputs), strict=True))


def compare(served: ServedIceMix, ask: Ask, limit: int, batches: Iterable[Arrays]) -> Parity:
    """Compare PyTorch with another implementation, with up to `limit` slots of padding whose other columns hold random numbers."""
    generator = np.random.default_rng(2)
    angles, spreads, kappas = [], [], []
    for bare in batches:
        padding = example_inputs(generator, len(bare["n_pulses"]), length=0, padded=int(generator.integers(0, limit)))
        padded = {
            name: array if name == "n_pulses" else np.concatenate([array, padding[name]], axis=1)
            for name, array in bare.items()
        }
        with torch.inference_mode():
            expected, *spread = (output.numpy() for output in served(*(torch.from_numpy(a) for a in bare.values())))
        found = ask(padded)
        promised = np.concatenate(spread, axis=1)  # κ and radii (B, 4)
        differing = np.abs(np.concatenate([found["kappa"], found["radius"]], axis=1) - promised) / promised
        angles.append(np.degrees(opening_angle(expected, found["direction"])))
        spreads.append(differing.max(axis=1).astype(np.float64))
        kappas.append(promised[:, 0].astype(np.float64))
    return Parity(np.concatenate(angles), np.concatenate(spreads), np.concatenate(kappas))
