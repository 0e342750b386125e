"""Cube 1: brings events into the stream. ``source`` makes them, ``pacing`` says when, ``publisher`` writes them."""
