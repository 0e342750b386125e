"""The keys in Redis, and who writes and reads each of them.

All have the hash tag `{icestream}`, so that one script may use several of them in a Redis Cluster, too.
"""

import re
from functools import lru_cache
from typing import Any, NamedTuple

# emitter → bridge; an entry is deleted when its result is stored, so its length is the backlog
EVENTS = "{icestream}:events"
TRUTH = "{icestream}:truth"  # emitter → recorder; an entry is deleted when it is recorded
DIRECTIONS = "{icestream}:directions"  # results: bridge → recorder and any other reader
REJECTED = "{icestream}:rejected"  # dead letters: entries that can never succeed, with reason and bytes
REJECTED_BYTES = "{icestream}:rejected:bytes"  # counter: bytes of the payloads in REJECTED
SHOWN = "{icestream}:shown"  # bridge → display: a few events with their pulses and results
# Sorted set of recently completed events, "run_id:event_id"; the score is the time of the event's entry, Unix ms. A second
# entry of the same event within REMEMBERED_MS of it is a duplicate.
DONE = "{icestream}:done"
STORED = "{icestream}:stored"  # counter: results ever stored
EMITTED = (
    "{icestream}:emitted"  # prefix of one hash per run: how many events were emitted and stored, and what they are
)
RECORDER = "{icestream}:recorder"  # lease of the recorder that reads DIRECTIONS and TRUTH: there is one at a time
ALONE = "{icestream}:alone"  # lease of the bridge that asks Triton alone, to see which event is to blame
SERVING = "{icestream}:serving"  # hash: which model is served; deployer → bridges, display, recorder
COMPARISON = "{icestream}:comparison"  # how champion and challenger compare; recorder → everybody
EMITTER = "{icestream}:emitter"  # expires when no emitter has renewed it for some seconds


class Queue(NamedTuple):
    """The keys of a queue of events, and of what becomes of them."""

    events: str
    directions: str
    rejected: str
    rejected_bytes: str
    shown: str
    done: str
    stored: str
    alone: str


STREAM = Queue(
    events=EVENTS,
    directions=DIRECTIONS,
    rejected=REJECTED,
    rejected_bytes=REJECTED_BYTES,
    shown=SHOWN,
    done=DONE,
    stored=STORED,
    alone=ALONE,
)


@lru_cache(maxsize=4)
def challenge(epoch: int) -> Queue:
    """The same again for copies of some events, which a bridge of its own answers by the challenger of a serving state; the recorder
    reads the results. A name for each state: whoever has not heard yet that it is over writes where nobody reads."""
    names = {
        name: key.replace("{icestream}:", f"{{icestream}}:challenge:{epoch}:") for name, key in STREAM._asdict().items()
    }
    return Queue(**names | {"alone": ALONE})  # both ask the same Tritons


def dropped(epoch: int) -> str:
    """Counter: copies that were dropped for newer ones."""
    return f"{{icestream}}:challenge:{epoch}:dropped"


BRIDGE_GROUP = "bridge"  # reads the events of a queue
RECORDER_GROUP = "recorder"  # reads DIRECTIONS and TRUTH
# Reading the consumer's own pending entries beyond this id finds nothing but updates the consumer's idle time. Before
# Redis 7.2 a read of new entries that finds none does not.
END = "18446744073709551615-0"

INTEGER = re.compile(rb"-?[0-9]{1,19}")  # run_id, event_id


def number(value: Any, otherwise: int = 0) -> int:
    """A number as Redis holds it; whatever else is there, or nothing, is `otherwise`."""
    return int(value) if isinstance(value, bytes) and INTEGER.fullmatch(value) else otherwise


REMEMBERED_MS = 300_000
REMEMBERED_MOST = 1_000_000  # events: some 110 MB, five minutes at 3000 events/s
REJECTED_KEPT = 10_000  # entries
REJECTED_KEPT_BYTES = 32 * 2**20  # of their payloads
REJECTED_PAYLOAD_BYTES = 64 * 2**10  # of one payload; the rest of a larger one is not kept
UNASKED_BYTES = 128 * 2**20  # of results, and of truths, that stay where no recorder has ever read
SHOWN_KEPT = 500  # entries, some minutes
SHOWN_BYTES = 128 * 2**10  # of the payload of one: some 10 000 pulses
COPIES_KEPT = 1000  # copies of events that wait for the challenger; the oldest are dropped for newer ones
CHALLENGE_KEPT_S = 86_400  # that the keys of a challenge outlive its last event
COPY_BYTES = 64 * 2**10  # of the payload of one: some 5000 pulses; larger events are not copied
RUN_KEPT_S = 604_800  # that the hash of a run outlives its last write


def run(run_id: int) -> str:
    """The hash of a run."""
    return f"{EMITTED}:{run_id}"


# What versions before 0.1 called the streams.
OLD_NAMES = {
    "icestream:events": EVENTS,
    "icestream:truth": TRUTH,
    "icestream:directions": DIRECTIONS,
    "icestream:rejected": REJECTED,
    "icestream:shown": SHOWN,
}
