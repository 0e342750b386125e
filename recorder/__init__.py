"""Brings results to MLflow, in a process and a consumer group of its own: nobody waits for it.

``collector`` joins results with their truth, ``spool`` keeps them on disk until MLflow has them, ``uploader`` brings them
there, ``windows`` says what is told of each few seconds.
"""
