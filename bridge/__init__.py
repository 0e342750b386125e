"""Cube 2: takes events from the stream, asks Triton, stores the answers.

``worker`` is the loop; ``intake`` and ``outlet`` know Redis, ``inference`` knows Triton, ``batching`` knows neither.
``recorder`` is a process of its own that brings results to MLflow.
"""
