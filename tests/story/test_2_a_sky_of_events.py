"""Chapter 2: where events come from when no detector is at hand, and how hard it is to tell their direction."""

from itertools import islice

import numpy as np

from icestream.detector import nominal_icecube86
from icestream.direction import opening_angle, to_vector
from icestream.linefit import linefit
from icestream.sources.simulation.simulator import simulated_events
from icestream.tensors import pad


def test_the_simulation_gives_events_with_their_truth() -> None:
    detector = nominal_icecube86()
    events = list(islice(simulated_events(detector, seed=1, run_id=1), 300))
    assert {truth.kind for _, truth in events} == {"through-going", "starting", "cascade"}

    # The classic first guess is good for tracks that cross the detector and hopeless for cascades.
    angles: dict[str, list[float]] = {"through-going": [], "starting": [], "cascade": []}
    for event, truth in events:
        [guess] = linefit(pad([event], event.n_pulses), detector.position_m)
        angles[truth.kind].append(float(np.degrees(opening_angle(guess, to_vector(truth.azimuth, truth.zenith)))))
    assert np.median(angles["through-going"]) < 10 < 45 < np.median(angles["cascade"])
