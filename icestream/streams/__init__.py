"""Everything that knows Redis. No other module imports redis.

``keys`` names the streams, ``connection`` opens clients, ``event_queue`` is the bridges' consumer group (read, claim, renew,
complete, reject), ``publisher`` writes events, ``results`` reads results and truths, ``status`` reads the state of all streams.
The scripts in ``scripts/`` run inside Redis, each as one atomic step.
"""
