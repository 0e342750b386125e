"""How a model that Triton serves is asked: by the bridge for the stream's events, by the display for anybody's.

``triton`` knows the protocol, ``batching`` says which events share a request, ``errors`` what can go wrong.
"""
