"""A challenge as a run of MLflow, linked to both versions."""

from collections.abc import Callable
from contextlib import suppress

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Metric
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

from icestream.results.comparison import Comparison, Copies
from icestream.results.mlflow_names import EXPERIMENT_TAGS, MODELS_EXPERIMENT
from icestream.service.logs import Log
from icestream.streams.challenge import Challenge
from icestream.streams.connection import RedisError
from icestream.streams.serving import Serving

EPOCH_TAG = "icestream.challenge"  # of a run: the epoch of the serving state
RUN_TAG = "challenge.run"  # of a version: its latest challenge


class ChallengeRun:
    """Logs the challenge under way. May be repeated: a point has the number of pairs as its step.

    Args:
        read: what is known of it; None where there is none.
    """

    def __init__(self, client: MlflowClient, read: Callable[[], Challenge | None], log: Log):
        self._client, self._read, self._log = client, read, log
        self._epoch, self._run_id, self._pairs = 0, "", 0

    def upload(self, closing: bool) -> None:
        """Log what was compared since the last call; `closing` ends the run, which another recorder continues. Raises RedisError.

        What somebody has deleted in MLflow is made again; nothing else waits for it.
        """
        try:
            challenge = self._read()
        except RedisError:
            if closing:  # a stop waits for no Redis; another recorder continues the run
                return
            raise
        try:
            self._upload(challenge, closing)
        except MlflowException as error:
            self._log.warning("the challenge is not logged to MLflow now", error=str(error)[:300])
            if self._is_deleted():
                self._run_id = ""

    def _upload(self, challenge: Challenge | None, closing: bool) -> None:
        epoch = challenge[0].epoch if challenge else 0
        if self._run_id and epoch != self._epoch:
            self._client.set_terminated(self._run_id)
            self._run_id = ""
        if challenge is None or challenge[1].pairs == 0:
            return
        serving, found, copies = challenge
        if not self._run_id:
            self._epoch, self._run_id, self._pairs = epoch, self._begin(serving, found), 0
        if found.pairs != self._pairs:
            metrics = figures(found, copies)
            when = (
                self._client.get_run(self._run_id).info.start_time + found.pairs
            )  # rises, and is the same when repeated
            points = [Metric(name, value, when, found.pairs) for name, value in metrics.items()]
            self._client.log_batch(self._run_id, metrics=points)
            self._pairs = found.pairs
        if closing:
            self._client.set_terminated(self._run_id)

    def _is_deleted(self) -> bool:
        try:
            deleted: bool = self._client.get_run(self._run_id).info.lifecycle_stage == LifecycleStage.DELETED
        except MlflowException as error:
            deleted = error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST)
        return deleted

    def _begin(self, serving: Serving, found: Comparison) -> str:
        """The run of this challenge; one that an earlier recorder has begun goes on."""
        experiment = self._client.get_experiment_by_name(MODELS_EXPERIMENT)
        experiment_id = (
            experiment.experiment_id
            if experiment
            else self._client.create_experiment(MODELS_EXPERIMENT, tags=EXPERIMENT_TAGS)
        )
        if experiment and experiment.lifecycle_stage == LifecycleStage.DELETED:  # its name is still taken
            self._client.restore_experiment(experiment_id)
        words = f"tags.`{EPOCH_TAG}` = '{serving.epoch}' and attributes.start_time > {(serving.since_s - 60) * 1000}"
        if made := self._client.search_runs([experiment_id], words):
            return str(made[0].info.run_id)
        tags = {EPOCH_TAG: str(serving.epoch)}
        for side, version in (("champion", found.champion_version), ("challenger", found.challenger_version)):
            tags[side] = f"models:/{serving.registered}/{version}"
        name = f"challenge of {found.champion_version} by {found.challenger_version}"
        run_id = str(self._client.create_run(experiment_id, tags=tags, run_name=name).info.run_id)
        for version in (found.champion_version, found.challenger_version):
            with suppress(MlflowException):  # somebody has deleted the version
                self._client.set_model_version_tag(serving.registered, version, RUN_TAG, run_id)
        return run_id


def figures(found: Comparison, copies: Copies) -> dict[str, float]:
    """The figures of a comparison, by name."""
    values = {
        "pairs": float(found.pairs),
        "between_median_deg": found.median_between_deg,
        "kappa_ratio": found.kappa_ratio,
        "copies": float(copies.copied),
        "refused": float(copies.refused),
        "dropped": float(copies.dropped),
        "champion/p99_seconds": found.champion.p99_s,
        "challenger/p99_seconds": found.challenger.p99_s,
    }
    if found.truths > 1:
        mean, half = found.difference
        values |= {"difference/mean_deg": mean, "difference/low_deg": mean - half, "difference/high_deg": mean + half}
        for name, side in (("champion", found.champion), ("challenger", found.challenger)):
            values |= {
                f"{name}/opening_angle_mean_deg": side.opening_angle_deg / found.truths,
                f"{name}/within_radius_50_share": side.within_50 / found.truths,
                f"{name}/within_radius_90_share": side.within_90 / found.truths,
            }
    return values
