"""The emitter: writes events into the stream. ``pacing`` decides when, ``emission`` is the loop, ``prefetcher`` prepares events."""
