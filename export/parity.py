"""How far ONNX Runtime's answers lie from PyTorch's."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from export.served import ServedIceMix
from icestream.detector import DOM_COUNT, nominal_icecube86
from icestream.direction import opening_angle
from icestream.simulation.simulator import simulated_events
from icestream.tensors import PADDING_SENSOR, Arrays, pad


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


@dataclass(frozen=True)
class Tolerance:
    """What is right.

    Attributes:
        median_deg, worst_deg: of all answers.
        confident_deg: of the share `share` of the answers with κ ≥ 1.
    """

    median_deg: float
    worst_deg: float
    confident_deg: float
    share: float = 1.0


# An answer of small κ is a short vector, and float32's last bits turn it by some 1e-4°/κ.
SINGLE = Tolerance(median_deg=1e-4, worst_deg=1e-2, confident_deg=1e-3)
# Of two latent neighbours that are as far in float32, one or the other may be taken.
SINGLE_DYNEDGE = Tolerance(median_deg=1e-4, worst_deg=1.0, confident_deg=1e-3, share=0.99)
HALF = Tolerance(median_deg=0.02, worst_deg=5.0, confident_deg=0.5)


@dataclass(frozen=True)
class Parity:
    """Opening angles between PyTorch's and ONNX Runtime's answers."""

    angle_deg: NDArray[np.float64]  # (events,)
    kappa: NDArray[np.float64]  # (events,)

    @property
    def median_deg(self) -> float:
        return float(np.median(self.angle_deg))

    @property
    def worst_deg(self) -> float:
        return float(self.angle_deg.max())

    def confident_deg(self, share: float = 1.0) -> float:
        """The angle that this share of the answers with κ ≥ 1 stays below; 0 if there are none."""
        confident = self.angle_deg[self.kappa >= 1]
        return float(np.quantile(confident, share)) if len(confident) else 0.0

    def __str__(self) -> str:
        return (
            f"opening angle between PyTorch and ONNX Runtime over {len(self.angle_deg)} events: median {self.median_deg:.1e}°, "
            f"worst {self.worst_deg:.1e}°, worst where κ ≥ 1 {self.confident_deg():.1e}°"
        )

    def fault(self, right: Tolerance) -> str | None:
        """What is out of tolerance, in words; None if nothing is."""
        if (
            self.median_deg <= right.median_deg
            and self.worst_deg <= right.worst_deg
            and self.confident_deg(right.share) <= right.confident_deg
        ):
            return None
        return f"{self}; right are {right.median_deg}°, {right.worst_deg}° and, for {right.share:.0%}, {right.confident_deg}°"


def cut_batches(limit: int) -> Iterator[Arrays]:
    """224 simulated events, cut to 28 lengths from 1 to the limit: what a network must bear, confident or not."""
    generator = np.random.default_rng(1)
    events = [event for event, _ in islice(simulated_events(nominal_icecube86(), seed=0, run_id=0), 400)]
    for length in [1, 2, 3, limit, *generator.integers(1, limit + 1, 24).tolist()]:
        long_enough = [event for event in events if event.n_pulses >= length]
        yield pad([long_enough[index] for index in generator.integers(len(long_enough), size=8)], length)


def stream_batches(limit: int) -> Iterator[Arrays]:
    """2048 simulated events as they come: what a network meets."""
    events = [event for event, _ in islice(simulated_events(nominal_icecube86(), seed=0, run_id=0), 2048)]
    events.sort(key=lambda event: event.n_pulses)
    for low in range(0, len(events), 32):
        batch = events[low : low + 32]
        yield pad(batch, min(batch[-1].n_pulses, limit))


def compare(served: ServedIceMix, model: bytes, limit: int, batches: Iterable[Arrays]) -> Parity:
    """PyTorch against ONNX Runtime with up to `limit` slots of padding, whose other columns hold random numbers."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(2)
    angles, kappas = [], []
    for bare in batches:
        padding = example_inputs(generator, len(bare["n_pulses"]), length=0, padded=int(generator.integers(0, limit)))
        padded = {
            name: array if name == "n_pulses" else np.concatenate([array, padding[name]], axis=1)
            for name, array in bare.items()
        }
        with torch.inference_mode():
            expected, kappa, _ = served(*(torch.from_numpy(array) for array in bare.values()))
        found = session.run(["direction"], padded)[0]
        angles.append(np.degrees(opening_angle(expected.numpy(), found)))
        kappas.append(kappa[:, 0].numpy().astype(np.float64))
    return Parity(np.concatenate(angles), np.concatenate(kappas))
