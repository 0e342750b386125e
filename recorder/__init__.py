"""The recorder: uploads results to MLflow, in a process and a consumer group of its own, so that nothing waits for MLflow.

``collector`` joins results with their truth, ``spool`` keeps them on disk until MLflow has them, ``uploader`` brings them there,
``windows`` computes the metrics of a window, ``retention`` deletes what is too old there, ``loops`` runs and retries all.
"""
