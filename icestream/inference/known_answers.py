"""Known answers: a few events with the answers of the exported network, kept in the model's configuration.

They detect swapped axes, an inverted flag, another geometry or other weights: each changes the answers by far more than the
tolerance.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from icestream.direction import opening_angle
from icestream.event import Event
from icestream.event_json import EventBody, pulse_columns, to_event

TOLERANCE_DEG = 0.5  # half precision stays below it
TOLERANCE_KAPPA = 0.1  # of κ


@dataclass(frozen=True)
class KnownAnswer:
    """An event and the answer that the exported network gave."""

    event: Event
    direction: tuple[float, float, float]  # unit vector
    kappa: float

    def difference(self, direction: Sequence[float], kappa: float) -> str | None:
        """How an answer to the event differs, in words; None if it is within the tolerance."""
        angle = float(np.degrees(opening_angle(direction, self.direction)))
        if angle <= TOLERANCE_DEG and abs(kappa - self.kappa) <= TOLERANCE_KAPPA * self.kappa:
            return None
        return (
            f"a known event of {self.event.n_pulses} pulses is answered {angle:.1f}° away from its stored answer, "
            f"κ {kappa:.3g} instead of {self.kappa:.3g}"
        )


class _Stored(EventBody, kw_only=True):
    auxiliary: list[bool | int]  # type: ignore[assignment]  # 0 and 1 keep the configuration short
    direction: tuple[float, float, float]
    kappa: float


_decode = msgspec.json.Decoder(list[_Stored]).decode


def encode(answers: Sequence[KnownAnswer]) -> str:
    """One line of JSON, for a parameter in config.pbtxt."""
    entries = [
        {
            **pulse_columns(answer.event),
            "time_ns": [round(value, 1) for value in answer.event.time_ns.tolist()],
            "auxiliary": answer.event.auxiliary.astype(int).tolist(),
            "charge_pe": [round(value, 3) for value in answer.event.charge_pe.tolist()],
            "direction": [round(value, 6) for value in answer.direction],
            "kappa": float(f"{answer.kappa:.5g}"),
        }
        for answer in answers
    ]
    return msgspec.json.encode(entries).decode()


def decode(text: str) -> list[KnownAnswer]:
    """The inverse of `encode`; raises ValueError if the text is something else."""
    return [
        KnownAnswer(to_event(stored, default_id), stored.direction, stored.kappa)
        for default_id, stored in enumerate(_decode(text))
    ]
