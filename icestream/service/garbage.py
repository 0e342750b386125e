"""The garbage collector of a long-running process."""

import gc

NEW_OBJECTS = 50_000  # before a collection; Python's own 700 comes many times a second in a stream


def collect_rarely() -> None:
    """Call when all libraries are imported: what they have made is never looked at again, and what is new less often."""
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS)
