"""Runs inside the emitter's container, until it is killed: well-formed events that are not what the network knows.

shuffled  the times of each event's pulses are shuffled, so that nothing moves through the detector any more
down      only what comes from above
"""

import os
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np

from emitter.publisher import Publisher
from icestream.detector import nominal_icecube86
from icestream.event import Event
from icestream.simulation.simulator import simulated_events
from icestream.streams import connect


def main(kind: str) -> None:
    password = Path(os.environ["ICESTREAM_EMITTER_REDIS_PASSWORD_FILE"]).read_text().strip()
    run_id = time.time_ns() // 1_000_000
    publisher = Publisher(connect(os.environ["ICESTREAM_EMITTER_REDIS_URL"], password), run_id)
    events = simulated_events(nominal_icecube86(), 7, run_id)
    generator, sent = np.random.default_rng(7), 0
    while True:
        pairs = list(islice(events, 64))
        if kind == "down":
            pairs = [(event, truth) for event, truth in pairs if truth and truth.zenith < 1]
        else:
            pairs = [
                (Event(e.run_id, e.event_id, 0, e.sensor_id, generator.permutation(e.time_ns), e.charge_pe, e.auxiliary), t)
                for e, t in pairs
            ]  # fmt: skip
        while publisher.backlog() > 300:
            time.sleep(0.05)
        publisher.publish(sent, pairs, time.time_ns())
        sent += len(pairs)


main(sys.argv[1])
