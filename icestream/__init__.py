"""Icestream: what every process of the stream must agree on.

Read in the order an event travels: ``event`` (what it is), ``wire`` (how it is written), ``streams`` (where it is put),
``tensors`` (what the model sees), ``direction`` (what comes out).
"""

__version__ = "0.1.0"
