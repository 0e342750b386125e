"""Serves the versions that the aliases of the model registry ask for, once they are proved.

``deployer`` compares what is wanted with what is served, ``tritons`` has them loaded and proved, ``repository`` keeps the files
from which Triton loads, ``failures`` and ``refusals`` say when a champion is withdrawn, ``models`` is `icestream models`.
"""
