"""The figures of a session: its events as Redis counted them, and the accuracy of the results that MLflow has recorded."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from mlflow import MlflowClient

from icestream import __version__
from icestream.results.mlflow_names import EXPERIMENT, PREDICTIONS
from icestream.results.table import SCHEMA, latency_s, mean_median, numbers, within_radius
from icestream.tensors import padded_length


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Events of a session, by what became of them."""

    emitted: int
    latest: int = 0  # id of the latest pass over a folder
    forgotten: int = 0  # emitted before Redis was emptied: what became of them is not known
    reconstructed: int  # results
    repeated: int = 0  # further entries of an event that has a result
    rejected: int
    left_in_stream: int
    truth: str = ""  # where it comes from, or why it is not known

    @property
    def lost(self) -> int:
        """Events that have neither a result nor a dead letter and are not in the stream."""
        return max(0, self._missing)

    @property
    def duplicated(self) -> int:
        """Results beyond one for each event."""
        return max(0, -self._missing)

    @property
    def _missing(self) -> int:
        known = self.reconstructed + self.repeated + self.rejected + self.left_in_stream
        return self.emitted - self.forgotten - known


def recorded(mlflow_url: str, session: str, folder: Path) -> tuple[pa.Table, list[str]]:
    """All results in the MLflow runs of a session, and the ids of those runs, the latest last."""
    client = MlflowClient(mlflow_url)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return SCHEMA.empty_table(), []
    runs = client.search_runs(
        [experiment.experiment_id], f"tags.`icestream.session` = '{session}'", order_by=["start_time ASC"]
    )
    parts = [SCHEMA.empty_table()]
    for run in runs:
        for artifact in client.list_artifacts(run.info.run_id, PREDICTIONS):
            parts.append(
                pq.read_table(client.download_artifacts(run.info.run_id, artifact.path, str(folder)), partitioning=None)
            )
    return pa.concat_tables(parts), [run.info.run_id for run in runs]


def report(counts: Counts, rows: pa.Table, max_pulses: int) -> dict[str, Any]:
    """The figures of a session.

    Args:
        rows: its results, as recorded.
        max_pulses: the limit of the model, for the share of padding.
    """
    angles, guesses = numbers(rows, "opening_angle_deg"), numbers(rows, "linefit_opening_angle_deg")
    recorded_events = rows.group_by(["run_id", "event_id"]).aggregate([]).num_rows
    kinds = sorted(set(rows["kind"].drop_null().to_pylist()) - {""})
    return {
        "version": __version__,
        "emitted": counts.emitted,
        "forgotten": counts.forgotten,
        "reconstructed": counts.reconstructed,
        "repeated": counts.repeated,
        "rejected": counts.rejected,
        "left_in_stream": counts.left_in_stream,
        "lost": counts.lost,
        "duplicated": counts.duplicated,
        "recorded": recorded_events,
        "recorded_twice": rows.num_rows - recorded_events,
        "truth": counts.truth,
        "opening_angle_deg": mean_median(angles),
        "linefit_opening_angle_deg": mean_median(guesses),
        "score_radians": float(np.radians(angles).mean()) if len(angles) else None,
        "by_kind_deg": {
            kind: mean_median(numbers(rows.filter(pc.equal(rows["kind"], kind)), "opening_angle_deg")) for kind in kinds
        },
        "within_radius": {str(share): within_radius(rows, share) for share in (50, 90)},
        **_speed(rows, max_pulses),
    }


def is_whole(figures: Mapping[str, Any]) -> bool:
    """Whether every event of a report has one result, which is recorded, or is known to wait or to be rejected."""
    wrong = any(figures[name] for name in ("lost", "duplicated", "forgotten", "recorded_twice"))
    return not wrong and figures["recorded"] >= figures["reconstructed"]


def _speed(rows: pa.Table, max_pulses: int) -> dict[str, Any]:
    if rows.num_rows == 0:
        return dict.fromkeys(("events_per_second", "latency_seconds", "padding_waste", "mean_batch_size"))
    latency, used = latency_s(rows), rows["n_used"].to_pylist()
    span = (numbers(rows, "stored_ns").max() - numbers(rows, "read_ns").min()) * 1e-9
    padded = sum(padded_length(n, max(max_pulses, n)) for n in used)
    return {
        "events_per_second": rows.num_rows / span,
        "latency_seconds": {f"p{share}": float(np.quantile(latency, share / 100)) for share in (50, 95, 99)},
        "padding_waste": 1 - sum(used) / padded,
        "mean_batch_size": rows.num_rows / len(set(rows["sent_ns"].to_pylist())),
    }


def write_report(figures: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(figures, indent=2) + "\n")
