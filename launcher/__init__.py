"""The `icestream` command: the whole stream on one machine without Docker, and small tools around it.

``plan`` lists the processes, ``supervisor`` keeps them running, ``session`` is one `icestream up` from start to end, ``view`` is
what the terminal shows, ``report`` the figures at the end; ``send``, ``inspection``, ``rejected``, ``mlflow_server`` and ``__main__`` are the other commands.
"""
