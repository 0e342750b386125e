"""How far the answers of an exported model lie from what its network computes.

The yardstick is PyTorch in double precision. PyTorch's own single precision is measured with it too, on the same processor: an
answer of small κ is a short vector, which the last bits of float32 turn by some 1e-4°/κ, by more on one processor than on
another. An exported model may err as PyTorch errs; what errs more computes something else.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from export.dynedge import FAR
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


FACTOR = 3.0  # as large an error as PyTorch's own; other processors gave 0.8 to 1.3
FLOOR_DEG, FLOOR_SPREAD = 1e-6, 2e-4  # errors below these are none, however small PyTorch's are
CAP_DEG = 0.05  # where κ ≥ 1, whatever PyTorch's error is
CAP_TIED_DEG = 1.0  # where κ ≥ 1 and another latent neighbour was as near
# Half precision errs by design: the largest accepted differences.
HALF_MEDIAN_DEG, HALF_CAP_DEG, HALF_WORST_DEG, HALF_SPREAD = 0.1, 1.0, 10.0, 0.05


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Differences to PyTorch in double precision, each (events,).

    Attributes:
        angle_deg, own_deg: opening angle of the exported model, and of PyTorch in single precision.
        spread, own_spread: largest relative difference of κ and the radii.
        kappa: in double precision.
        tied: whether one of DynEdge's latent neighbours is as near as another within float32, so that either may be taken.
    """

    angle_deg: NDArray[np.float64]
    own_deg: NDArray[np.float64]
    spread: NDArray[np.float64]
    own_spread: NDArray[np.float64]
    kappa: NDArray[np.float64]
    tied: NDArray[np.bool_]

    @property
    def median_deg(self) -> float:
        return float(np.median(self.angle_deg))

    @property
    def worst_deg(self) -> float:
        return float(self.angle_deg.max())

    @property
    def confident_deg(self) -> float:
        """The worst angle where κ ≥ 1 and nothing is tied; 0 if there is none."""
        return float(self.angle_deg[self._confident].max(initial=0.0))

    @property
    def confident_spread(self) -> float:
        """The same of κ and the radii, relative."""
        return float(self.spread[self._confident].max(initial=0.0))

    @property
    def _confident(self) -> NDArray[np.bool_]:
        confident: NDArray[np.bool_] = (self.kappa >= 1) & ~self.tied
        return confident

    def __str__(self) -> str:
        tied = f", {int(self.tied.sum())} with tied neighbours left out" if self.tied.any() else ""
        return (
            f"{len(self.angle_deg)} events{tied}, opening angle to the answer in double precision: median {self.median_deg:.1e}° "
            f"(PyTorch in single precision {np.median(self.own_deg):.1e}°), worst {self.worst_deg:.1e}° ({self.own_deg.max():.1e}°), "
            f"worst where κ ≥ 1 {self.confident_deg:.1e}°; κ and radii there within {self.confident_spread:.1e}"
        )

    def fault(self, precision: str) -> str | None:
        """What shows that the model computes something else, in words; None if nothing does.

        Args:
            precision: fp32 or fp16.
        """
        for what, value, limit in self._half_limits() if precision == "fp16" else self._single_limits():
            if not value <= limit:  # a value may be NaN
                return f"{self}. {what} is {value:.1e}; at most {limit:.1e} is right"
        return None

    def _single_limits(self) -> list[tuple[str, float, float]]:
        clear = ~self.tied
        angle, own = self.angle_deg[clear], self.own_deg[clear]
        displaced, own_displaced = angle * self.kappa[clear], own * self.kappa[clear]
        tied = self.angle_deg[self.tied & (self.kappa >= 1)]
        return [
            ("the share of events with tied neighbours", float(self.tied.mean()), 0.5),
            ("the median angle", float(np.median(angle)), max(FACTOR * float(np.median(own)), FLOOR_DEG)),
            ("the worst angle times κ", float(displaced.max()), max(FACTOR * float(own_displaced.max()), FLOOR_DEG)),
            ("the worst angle where κ ≥ 1", self.confident_deg, CAP_DEG),
            ("the worst angle of tied neighbours", float(tied.max(initial=0.0)), CAP_TIED_DEG),
            (
                "the worst difference of κ or a radius",
                float(self.spread[clear].max()),
                max(FACTOR * float(self.own_spread[clear].max()), FLOOR_SPREAD),
            ),
        ]

    def _half_limits(self) -> list[tuple[str, float, float]]:
        return [
            ("the median angle", self.median_deg, HALF_MEDIAN_DEG),
            ("the worst angle", self.worst_deg, HALF_WORST_DEG),
            ("the worst angle where κ ≥ 1", self.confident_deg, HALF_CAP_DEG),
            ("the worst difference of κ or a radius where κ ≥ 1", self.confident_spread, HALF_SPREAD),
        ]


def cut_batches(limit: int) -> Iterator[Arrays]:
    """112 simulated events, cut to 28 lengths from 1 to the limit: confident or not."""
    generator = np.random.default_rng(1)
    events = [event for event, _ in islice(simulated_events(nominal_icecube86(), seed=0, run_id=0), 400)]
    for length in [1, 2, 3, limit, *generator.integers(1, limit + 1, 24).tolist()]:
        long_enough = [event for event in events if event.n_pulses >= length]
        yield pad([long_enough[index] for index in generator.integers(len(long_enough), size=4)], length)


def stream_batches(limit: int) -> Iterator[Arrays]:
    """512 simulated events as the stream delivers them."""
    events = [event for event, _ in islice(simulated_events(nominal_icecube86(), seed=0, run_id=0), 512)]
    events.sort(key=lambda event: event.n_pulses)
    for low in range(0, len(events), 32):
        batch = events[low : low + 32]
        yield pad(batch, min(batch[-1].n_pulses, limit))


Ask = Callable[[Arrays], Mapping[str, NDArray[Any]]]


def onnx_runtime(model: bytes) -> Ask:
    """Asks ONNX Runtime on the CPU."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return lambda inputs: dict(zip(OUTPUTS, session.run(list(OUTPUTS), inputs), strict=True))


class Neighbours(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which neighbours DynEdge takes, or has it take those again.

    Attributes:
        taken: what `export.dynedge.smallest` has returned, call by call.
        tied: (B,) whether a latent neighbour that was taken and one that was not are equally far within float32.
    """

    CLOSE = 1e-5

    def __init__(self, again: list[tuple[Tensor, Tensor]] | None = None):
        super().__init__()  # type: ignore[no-untyped-call]
        self.taken: list[tuple[Tensor, Tensor]] = []
        self.tied: Tensor | None = None
        self._again = again

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is not torch.ops.icestream.smallest.default:
            return function(*args, **(kwargs or {}))
        values, count = args
        if self._again is not None:
            distance, index = self._again[len(self.taken)]
            self.taken.append((distance.to(values.dtype), index))
        else:
            self.taken.append(function(values, count))
            # The first graph is of the geometry's own numbers, in which both find the same.
            if len(self.taken) > 1:
                tied = self._close(values, count)
                self.tied = tied if self.tied is None else self.tied | tied
        return self.taken[-1]

    def _close(self, values: Tensor, count: int) -> Tensor:
        far = values >= FAR
        size = torch.where(far, 0.0, values).amax(-1)  # (B, L): coordinates are of the size of its root
        distance = values.sort(-1).values
        last, next_one = distance[..., count - 1], distance[..., count]
        close = (next_one < FAR) & (next_one - last <= self.CLOSE * (next_one * size).sqrt())
        return close.any(-1)


def compare(served: nn.Module, ask: Ask, limit: int, batches: Iterable[Arrays]) -> Parity:
    """Compare PyTorch with another implementation, with up to `limit` slots of padding whose other columns hold random numbers.

    Args:
        served: 5 inputs → direction, κ and radii, see `export.served`.

    Raises:
        ValueError: the module cannot compute in double precision.
    """
    generator = np.random.default_rng(2)
    bare = list(batches)
    notes = [Neighbours() for _ in bare]
    alone = [_answers(served, inputs, taken) for inputs, taken in zip(bare, notes, strict=True)]
    served.double()
    try:
        exact = [
            _answers(served, _in_double(inputs), Neighbours(again=one.taken))
            for inputs, one in zip(bare, notes, strict=True)
        ]
    except RuntimeError as error:
        raise ValueError(
            f"the network cannot compute in double precision, in which it is compared ({str(error)[:200]}): its constants must "
            "follow the type of its inputs"
        ) from None
    finally:
        served.float()
    found = []
    for inputs in bare:
        padding = example_inputs(generator, len(inputs["n_pulses"]), length=0, padded=int(generator.integers(0, limit)))
        outputs = ask(
            {
                name: array if name == "n_pulses" else np.concatenate([array, padding[name]], axis=1)
                for name, array in inputs.items()
            }
        )
        found.append([outputs[name].astype(np.float64) for name in OUTPUTS])
    right, own, theirs = (_joined(answers) for answers in (exact, alone, found))
    ties = [
        np.zeros(len(answers[0]), bool) if one.tied is None else one.tied.numpy()
        for answers, one in zip(alone, notes, strict=True)
    ]
    return Parity(
        angle_deg=_angle(right, theirs),
        own_deg=_angle(right, own),
        spread=_spread(right, theirs),
        own_spread=_spread(right, own),
        kappa=right[1][:, 0],
        tied=np.concatenate(ties),
    )


Answers = list[NDArray[np.float64]]  # direction (B, 3), κ (B, 1), radius (B, 3)


def _answers(served: nn.Module, inputs: Mapping[str, NDArray[Any]], notes: Neighbours) -> Answers:
    with torch.inference_mode(), notes:
        outputs = served(*(torch.from_numpy(array) for array in inputs.values()))
    return [output.double().numpy() for output in outputs]


def _in_double(inputs: Arrays) -> dict[str, NDArray[Any]]:
    return {name: array.astype(np.float64) if array.dtype == np.float32 else array for name, array in inputs.items()}


def _joined(batches: list[Answers]) -> Answers:
    return [np.concatenate(outputs) for outputs in zip(*batches, strict=True)]


def _angle(right: Answers, other: Answers) -> NDArray[np.float64]:
    angle: NDArray[np.float64] = np.degrees(opening_angle(right[0], other[0]))
    return angle


def _spread(right: Answers, other: Answers) -> NDArray[np.float64]:
    one, two = (np.concatenate(answers[1:], axis=1) for answers in (right, other))
    worst: NDArray[np.float64] = np.abs(two / one - 1).max(axis=1)
    return worst
