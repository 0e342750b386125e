"""What every process of the stream agrees on. Importing it needs NumPy and msgspec only.

Read in the order an event travels: ``event``, ``truth``, ``result`` (the three kinds of record), ``wire`` (their bytes),
``tensors`` (the model's inputs and outputs), ``direction`` (angles). ``streams`` is the only code that imports redis,
``inference`` the only code that imports tritonclient or grpc; ``sources`` makes events, ``results`` are tables and pictures,
``service`` is what any process needs to run: settings, logs, metrics, health, retries.
"""

__version__ = "0.1.0"
