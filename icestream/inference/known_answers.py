"""Known events and the answers to them, kept in a model's configuration: is what is served what was exported?

Answers are wrong by far more than the tolerance where axes are swapped, auxiliary is inverted, the geometry or the weights are
others than at the export.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from icestream.direction import opening_angle
from icestream.event import Event

TOLERANCE_DEG = 0.5  # half precision stays below it
TOLERANCE_KAPPA = 0.1  # of κ


@dataclass(frozen=True)
class KnownAnswer:
    """An event and the answer that the exported network gave."""

    event: Event
    direction: tuple[float, float, float]  # unit vector
    kappa: float

    def fault(self, direction: Sequence[float], kappa: float) -> str | None:
        """What is wrong with an answer to the event, in words; None if nothing is."""
        angle = float(np.degrees(opening_angle(direction, self.direction)))
        if angle <= TOLERANCE_DEG and abs(kappa - self.kappa) <= TOLERANCE_KAPPA * self.kappa:
            return None
        return (
            f"a known event of {self.event.n_pulses} pulses is answered {angle:.1f}° away from its stored answer, "
            f"κ {kappa:.3g} instead of {self.kappa:.3g}"
        )


def encode(known: Sequence[KnownAnswer]) -> str:
    """As one line of text, fit for a parameter in config.pbtxt."""
    entries = [
        {
            "sensor_id": one.event.sensor_id.tolist(),
            "time_ns": [round(value, 1) for value in one.event.time_ns.tolist()],
            "charge_pe": [round(value, 3) for value in one.event.charge_pe.tolist()],
            "auxiliary": one.event.auxiliary.astype(int).tolist(),
            "direction": [round(value, 6) for value in one.direction],
            "kappa": float(f"{one.kappa:.5g}"),
        }
        for one in known
    ]
    return json.dumps(entries, separators=(",", ":"))


def decode(text: str) -> list[KnownAnswer]:
    """What `encode` wrote.

    Raises:
        ValueError: it is something else.
    """
    try:
        return [
            KnownAnswer(
                Event(
                    0, number, 0, np.array(entry["sensor_id"], np.int16), np.array(entry["time_ns"], np.float32),
                    np.array(entry["charge_pe"], np.float32), np.array(entry["auxiliary"], bool),
                ),
                tuple(entry["direction"]),
                float(entry["kappa"]),
            )
            for number, entry in enumerate(json.loads(text))
        ]  # fmt: skip
    except (TypeError, KeyError) as error:
        raise ValueError(f"no list of known answers: {error}") from None
