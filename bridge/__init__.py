"""The bridge: takes events from the stream, asks Triton, stores the results.

``worker`` is the loop, ``lease`` renews what is held, ``suspects`` orders redelivered entries, ``inference`` asks
Triton, ``showcase`` picks the events that the display shows. Redis is in ``icestream.streams.event_queue``, Triton in
``icestream.inference``.
"""
