"""Deletes the results of MLflow runs that are over for longer than they are to be kept. Charts, tags and pictures stay."""

import time
from collections.abc import Iterator

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from icestream.results.mlflow_names import PREDICTIONS
from icestream.service.logs import Log

INTERVAL_S = 3600.0
DAY_S = 86_400.0
DELETED = "icestream.results_deleted"  # tag of a run


class Retention:
    """Raises MlflowException or RequestException while MLflow is away.

    Args:
        keep_days: days after its end that the results of a run are kept; 0: for ever.
    """

    def __init__(self, client: MlflowClient, experiment: str, keep_days: float, log: Log):
        self._client, self._experiment, self._keep_days, self._log = client, experiment, keep_days, log
        self._due = 0.0
        # Runs that were due at an earlier look → the first of those, by a clock that nobody sets.
        self._seen: dict[str, float] = {}

    def apply(self) -> None:
        """Delete what is too old, if it was not looked for lately.

        It has to be so at two looks an hour apart: the time of day may be wrong for a while.
        """
        if self._keep_days == 0 or (now_s := time.monotonic()) < self._due:
            return
        due = list(self._ended_before(time.time() - self._keep_days * DAY_S))
        self._seen = {run.info.run_id: self._seen.get(run.info.run_id, now_s) for run in due}
        for run in due:
            if now_s - self._seen[run.info.run_id] < INTERVAL_S:
                continue
            get_artifact_repository(run.info.artifact_uri, self._client.tracking_uri).delete_artifacts(PREDICTIONS)  # type: ignore[no-untyped-call]
            self._client.set_tag(run.info.run_id, DELETED, f"after {self._keep_days:g} days")
            self._log.info("the results of an MLflow run are deleted", mlflow_run=run.info.run_id)
        self._due = time.monotonic() + INTERVAL_S

    def _ended_before(self, unix_s: float) -> Iterator[Run]:
        if (experiment := self._client.get_experiment_by_name(self._experiment)) is None:
            return
        ended, page = f"attributes.end_time < {int(unix_s * 1000)}", None
        while True:
            runs = self._client.search_runs([experiment.experiment_id], ended, page_token=page)
            yield from (run for run in runs if "icestream.start" in run.data.tags and DELETED not in run.data.tags)
            if not (page := runs.token):
                return
