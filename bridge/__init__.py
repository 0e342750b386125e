"""The bridge: takes events from the stream, asks Triton, stores the results.

``worker`` is the loop, ``inference`` asks Triton, ``showcase`` picks the events that the display shows. Redis is in
``icestream.streams.event_queue``, Triton in ``icestream.inference``.
"""
