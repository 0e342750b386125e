"""The result of an event: its reconstructed direction, how certain it is, which model made it, and when."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from dataclasses import replace as replace_fields
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

# One result as results are stored: packed, little-endian. The network's outputs are float32.
ROW = np.dtype([
    ("run_id", "<i8"),
    ("event_id", "<i8"),
    ("direction", "<f4", 3),
    ("kappa", "<f4"),
    ("radius_50_deg", "<f4"),
    ("radius_90_deg", "<f4"),
    ("linefit", "<f4", 3),
    ("n_pulses", "<i4"),
    ("n_used", "<i4"),
    ("emitted_ns", "<i8"),
    ("read_ns", "<i8"),
])  # fmt: skip
COLUMNS = ROW.names or ()


class Result(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the stream stores for one event."""

    run_id: int
    event_id: int
    direction: tuple[float, float, float]  # unit vector to where the particle came from
    kappa: float  # von Mises–Fisher concentration, ≥ 0
    radius_50_deg: float  # angles around the direction that hold 50 and 90 % of such events
    radius_90_deg: float
    linefit: tuple[float, float, float]  # unit vector of the LineFit first guess; zeros where it is undefined
    n_pulses: int  # pulses of the event within the readout window
    n_used: int  # pulses the model was given
    model: str
    model_version: str
    checkpoint: str = ""  # the weights behind it: file, digest, precision, geometry; empty in results of wire version 2
    emitted_ns: int  # Unix times in ns: written by the emitter,
    read_ns: int  # read by the bridge,
    sent_ns: int  # sent to Triton,
    answered_ns: int  # answered by Triton,
    stored_ns: int  # stored in Redis, by its clock

    @property
    def latency_s(self) -> float:
        """Seconds from emitted to stored."""
        return (self.stored_ns - self.emitted_ns) * 1e-9


SHARED = ("model", "model_version", "checkpoint", "sent_ns", "answered_ns", "stored_ns")


@dataclass(frozen=True, kw_only=True)
class Results:
    """The results of the events of one request, as columns: what differs is in the rows, the rest is as of `Result`."""

    rows: NDArray[np.void]  # (events,) of ROW
    model: str
    model_version: str
    checkpoint: str
    sent_ns: int
    answered_ns: int
    stored_ns: int

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Result:
        values: dict[str, Any] = dict(zip(COLUMNS, self.rows[index].tolist(), strict=True))
        for name in ("direction", "linefit"):
            values[name] = tuple(values[name].tolist())
        return Result(**values, **{name: getattr(self, name) for name in SHARED})

    def __iter__(self) -> Iterator[Result]:
        return (self[index] for index in range(len(self)))

    def only(self, kept: Any) -> "Results":
        """Some of the rows: a mask, a slice or indices."""
        return replace_fields(self, rows=self.rows[kept])

    @property
    def latency_s(self) -> NDArray[np.float64]:
        """Seconds from emitted to stored of each."""
        seconds: NDArray[np.float64] = (self.stored_ns - self.rows["emitted_ns"]) * 1e-9
        return seconds

    @property
    def events(self) -> list[tuple[int, int]]:
        """(run_id, event_id) of each."""
        return list(zip(self.rows["run_id"].tolist(), self.rows["event_id"].tolist(), strict=True))


def pack(results: Sequence[Result]) -> Results:
    """Results as columns; what they share is taken from the first."""
    rows = np.array([tuple(getattr(result, name) for name in COLUMNS) for result in results], ROW)
    return Results(rows=rows, **{name: getattr(results[0], name) for name in SHARED})
