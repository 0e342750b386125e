"""The emitter (cube 1): brings events into the stream. ``pacing`` decides when, ``emission`` is the loop, ``prefetcher`` prepares events."""
