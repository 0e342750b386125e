"""The stream's face: a live page for people and a REST interface for programs that do not speak Redis.

``watch`` reads what is in Redis, ``asking`` asks Triton, ``rest`` and ``page`` answer over HTTP. The stream does not notice it.
"""
