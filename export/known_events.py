"""The few events whose answers travel with a model, see `icestream.inference.known_answers`."""

from itertools import islice

import numpy as np
import torch

from export.served import ServedIceMix
from icestream.detector import nominal_icecube86
from icestream.event import Event
from icestream.inference.known_answers import KnownAnswer
from icestream.sources.simulation.simulator import simulated_events
from icestream.tensors import pad

DRAWN, KEPT, MAX_PULSES = 400, 4, 64
SEED = 0


def known_events() -> list[Event]:
    """Simulated tracks of few pulses, of which most are coincident: short to write down, and with a direction."""
    found = simulated_events(nominal_icecube86(), SEED, run_id=0)
    short = [
        event for event, truth in islice(found, DRAWN) if truth.kind == "through-going" and event.n_pulses <= MAX_PULSES
    ]
    return sorted(short, key=lambda event: int(np.count_nonzero(event.auxiliary)) - event.n_pulses)[:KEPT]


def known_answers(served: ServedIceMix) -> list[KnownAnswer]:
    """The network's answers to the known events."""
    answers = []
    for event in known_events():
        with torch.inference_mode():
            direction, kappa, _ = served(*(torch.from_numpy(array) for array in pad([event], event.n_pulses).values()))
        x, y, z = direction[0].tolist()
        answers.append(KnownAnswer(event, (x, y, z), kappa.item()))
    return answers
