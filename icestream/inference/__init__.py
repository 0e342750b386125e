"""Everything that knows Triton's protocol. No other module imports tritonclient or grpc.

``client`` sends requests to one server, ``addresses`` and ``access`` say how servers are reached, ``checked_model`` asks only those
that give the ``known_answers``, ``followed_model`` the model that the serving state names, ``model`` describes what is served,
``model_files`` and ``control`` are what a deployer needs,
``batching`` groups events into requests and bisects requests that fail, ``gate`` lets one of them go alone, ``errors`` is what
can go wrong. The bridge uses it for the stream, the display for REST, the exporter to check what it has written.
"""
