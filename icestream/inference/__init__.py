"""Everything that knows Triton's protocol. No other module imports tritonclient or grpc.

``client`` sends requests, ``model`` describes what is served and checks it, ``known_answers`` are the events it is checked with,
``batching`` groups events into requests and bisects requests that fail, ``gate`` lets one of them go alone, ``errors`` is what
can go wrong. The bridge uses it for the stream, the display for REST, the exporter to check what it has written.
"""
