"""The keys in Redis, and who writes and reads each of them."""

EVENTS = (
    "icestream:events"  # emitter → bridge; an entry is deleted when its result is stored, so its length is the backlog
)
TRUTH = "icestream:truth"  # emitter → recorder; an entry is deleted when it is recorded
DIRECTIONS = "icestream:directions"  # results: bridge → recorder and any other reader
REJECTED = "icestream:rejected"  # dead letters: entries that can never succeed, with reason and bytes
SHOWN = "icestream:shown"  # bridge → display: a few events with their pulses and results
# Sets of recently completed events, "run_id:event_id": a second entry of the same event is a duplicate.
DONE = ("icestream:done:current", "icestream:done:previous")
EMITTED = "icestream:emitted"  # prefix of one hash per run: how many events were emitted and stored, and what they are
MODEL = "icestream:model"  # prefix of one hash per model: what a bridge found Triton to serve

BRIDGE_GROUP = "bridge"  # reads EVENTS
RECORDER_GROUP = "recorder"  # reads DIRECTIONS and TRUTH
# Reading the consumer's own pending entries beyond this id finds nothing but updates the consumer's idle time. Before
# Redis 7.2 a read of new entries that finds none does not.
END = "18446744073709551615-0"

REJECTED_KEPT = 10_000  # entries
SHOWN_KEPT = 500  # entries, some minutes
RUN_KEPT_S = 604_800  # that the hash of a run outlives its last write


def run(run_id: int) -> str:
    """The hash of a run."""
    return f"{EMITTED}:{run_id}"
