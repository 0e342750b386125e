"""Everything that knows Redis. No other module imports redis.

``keys`` names the streams, ``connection`` opens clients, ``event_queue`` is the bridges' consumer group (read, claim, renew,
complete, reject), ``publisher`` writes events, ``results`` reads results and truths, ``rejected`` dead letters, ``serving`` which model is
served, ``challenge`` what concerns a challenger, ``status`` reads the state of all streams; ``users`` are Redis' users,
``suitability`` whether a server keeps what is written, ``adoption`` renames keys of an earlier version.
The scripts in ``scripts/`` run inside Redis, each as one atomic step.
"""
