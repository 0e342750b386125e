"""Runs inside the emitter's container, until it is killed: well-formed events that are not what the network knows.

shuffled  the times of each event's pulses are shuffled, so that nothing moves through the detector any more
down      only what comes from above
again     the same few events
"""

import os
import sys
import time
from itertools import count, islice
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from icestream.detector import nominal_icecube86
from icestream.sources.simulation.simulator import simulated_events
from icestream.streams.connection import connect
from icestream.streams.publisher import Publisher


def main(kind: str) -> None:
    password = Path(os.environ["ICESTREAM_EMITTER_REDIS_PASSWORD_FILE"]).read_text().strip()
    run_id = time.time_ns() // 1_000_000
    publisher = Publisher(connect(os.environ["ICESTREAM_EMITTER_REDIS_URL"], password), run_id)
    generator, pool = np.random.default_rng(7), []
    for event, truth in islice(simulated_events(nominal_icecube86(), 7, run_id), 3000):
        if kind == "shuffled":
            pool.append((replace(event, time_ns=generator.permutation(event.time_ns)), truth))
        elif kind == "again" or truth.zenith < 1:
            pool.append((event, truth))
    for sent in count(0, 64):  # again and again, under numbers of their own
        first = 0 if kind == "again" else sent
        numbered = [(*pool[number % len(pool)], number) for number in range(first, first + 64)]
        pairs = [
            (replace(event, event_id=number), replace(truth, event_id=number)) for event, truth, number in numbered
        ]
        while publisher.backlog().entries > 300:
            time.sleep(0.05)
        publisher.publish(sent, pairs, time.time_ns())


main(sys.argv[1])
