import numpy as np
import pytest

from icestream.detector import nominal_icecube86
from icestream.direction import opening_angle
from icestream.event import Event
from icestream.linefit import linefit
from icestream.tensors import pad

POSITION = nominal_icecube86().position_m


def muon(direction: np.ndarray, auxiliary: bool = False) -> Event:
    """Pulses at the DOMs near a line through the centre, at the time a plane front passes them."""
    travel = -direction / np.linalg.norm(direction)
    along = POSITION @ travel
    near = np.flatnonzero(np.linalg.norm(POSITION - along[:, None] * travel, axis=1) < 120)
    near = near[np.argsort(along[near])]
    time = (10_000 + along[near] / 0.3).astype(np.float32)
    return Event(
        run_id=1,
        event_id=1,
        emitted_ns=0,
        sensor_id=near.astype(np.int16),
        time_ns=time,
        charge_pe=np.ones(len(near), np.float32),
        auxiliary=np.full(len(near), auxiliary),
    )


@pytest.mark.parametrize("direction", [[0.3, 0.5, 0.8], [1.0, 0.2, -0.4], [-0.5, -0.1, -0.6]])
def test_a_plane_front_gives_its_direction(direction: list[float]) -> None:
    event = muon(np.array(direction))
    guess = linefit(pad([event], event.n_pulses + 9), POSITION)
    assert np.degrees(opening_angle(guess[0], direction)) < 12  # the array is not symmetric around the line
    assert np.linalg.norm(guess[0]) == pytest.approx(1)


@pytest.mark.parametrize("charge", [-1e15, -1.0, 0.0, 1e30])
def test_of_charges_that_are_none_there_is_no_guess(charge: float) -> None:
    event = muon(np.array([0.3, 0.5, 0.8]))
    inputs = pad([event], event.n_pulses)
    inputs["charge"][0, : 1 if charge else None] = charge
    guess = linefit(inputs, POSITION)
    assert guess.tolist() == [[0, 0, 0]]


def test_without_coincident_pulses_there_is_no_guess() -> None:
    event = muon(np.array([0.0, 0.0, 1.0]), auxiliary=True)
    assert linefit(pad([event], event.n_pulses), POSITION).tolist() == [[0, 0, 0]]
