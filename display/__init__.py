"""The display: a live page for people and a REST interface for programs that do not speak Redis.

``follower`` reads results from Redis, ``inference`` asks Triton, ``schemas`` are the JSON types, ``rest`` and ``page`` are the HTTP
routes, ``app`` puts them together. It only reads the stream.
"""
