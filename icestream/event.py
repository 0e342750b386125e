"""An event: the pulses of one trigger."""

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from icestream.detector import DOM_COUNT

MAX_PULSES = 200_000  # the brightest events of the competition have some 10^5 pulses; more is a damaged entry


INT64 = (-(2**63), 2**63 - 1)  # of run_id, event_id and Unix times in ns
READOUT_NS = (0.0, 1e5)  # triggers, and what is merged with them, fill some 10 µs; a pulse far outside is an artefact


# Why an event, or an entry of the stream, can never be reconstructed.
REASONS = (
    "undecodable", "wrong_version", "ragged", "empty", "too_large", "unknown_sensor", "not_finite", "no_charge", "outside_readout",
    "too_many_tries", "refused_by_model", "no_answer",
)  # fmt: skip


class InvalidEvent(ValueError):
    """An event that can never be reconstructed.

    Attributes:
        reason: one of REASONS.
        detail: in words.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class RawEvent(msgspec.Struct, frozen=True, kw_only=True, eq=False, gc=False):
    """The pulses of one trigger as a source has them; arrays are read-only by convention.

    An event is known by the pair (run_id, event_id): a second pass over the same data is another run.
    """

    run_id: int  # int64
    event_id: int  # int64
    emitted_ns: int  # Unix time at which the emitter wrote it, ns
    sensor_id: NDArray[np.int16]  # (pulses,) 0…5159
    time_ns: NDArray[np.float32]  # (pulses,) ns since the start of the readout window; exact below 2^24 ns
    charge_pe: NDArray[np.float32]  # (pulses,) photo-electrons
    auxiliary: NDArray[np.bool_]  # (pulses,) False = passed hard local coincidence

    @property
    def n_pulses(self) -> int:
        """Number of pulses."""
        return len(self.sensor_id)


class Event(RawEvent, frozen=True, kw_only=True, eq=False, gc=False):
    """An event that can be reconstructed: validated when it is made.

    Raises:
        InvalidEvent: empty, absurdly large, columns of unequal length, unknown sensor, a number that is not finite, or a charge
            that is not above 0.
    """

    def __post_init__(self) -> None:
        count = len(self.sensor_id)
        if not len(self.time_ns) == len(self.charge_pe) == len(self.auxiliary) == count:
            raise InvalidEvent("ragged", "sensor_id, time, charge and auxiliary differ in length")
        if count == 0:
            raise InvalidEvent("empty", "an event needs at least one pulse")
        if count > MAX_PULSES:
            raise InvalidEvent("too_large", f"{count} pulses, at most {MAX_PULSES} are accepted")
        if self.sensor_id.min() < 0 or self.sensor_id.max() >= DOM_COUNT:
            raise InvalidEvent("unknown_sensor", f"sensor_id must lie in 0…{DOM_COUNT - 1}")
        if not (np.isfinite(self.time_ns).all() and np.isfinite(self.charge_pe).all()):
            raise InvalidEvent("not_finite", "time and charge must be finite numbers")
        if self.charge_pe.min() <= 0:
            raise InvalidEvent("no_charge", "the charge of a pulse must be above 0")

    def shifted(self, by_ns: float) -> "Event":
        """The event as a trigger would have given it that opened its window `by_ns` earlier."""
        return replace(self, time_ns=self.time_ns + np.float32(by_ns))

    def within_readout(self) -> "Event":
        """The event without the pulses outside `READOUT_NS`; raises InvalidEvent if none is left."""
        inside = (self.time_ns >= READOUT_NS[0]) & (self.time_ns < READOUT_NS[1])
        if inside.all():
            return self
        if not inside.any():
            raise InvalidEvent(
                "outside_readout", f"no pulse lies in the readout window, {READOUT_NS[0]:g}…{READOUT_NS[1]:g} ns"
            )
        return replace(
            self,
            sensor_id=self.sensor_id[inside],
            time_ns=self.time_ns[inside],
            charge_pe=self.charge_pe[inside],
            auxiliary=self.auxiliary[inside],
        )
