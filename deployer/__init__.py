"""Serves the versions that the aliases of the model registry ask for, once they are proved.

``deployer`` compares what is wanted with what is served, ``repository`` keeps the files from which Triton loads.
"""
