"""What a session has achieved, taken from what MLflow has recorded of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from mlflow import MlflowClient

from icestream import __version__
from icestream.results.table import SCHEMA, latency_s, mean_median, numbers, within_radius
from icestream.tensors import padded_length

EXPERIMENT = "icestream"


def recorded(mlflow_url: str, session: str, folder: Path) -> tuple[pa.Table, list[str]]:
    """All predictions in the MLflow runs of a session, and the ids of those runs, the latest last."""
    client = MlflowClient(mlflow_url)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return SCHEMA.empty_table(), []
    runs = client.search_runs(
        [experiment.experiment_id], f"tags.`icestream.session` = '{session}'", order_by=["start_time ASC"]
    )
    parts = [SCHEMA.empty_table()]
    for run in runs:
        for artifact in client.list_artifacts(run.info.run_id, "predictions"):
            parts.append(
                pq.read_table(client.download_artifacts(run.info.run_id, artifact.path, str(folder)), partitioning=None)
            )
    return pa.concat_tables(parts), [run.info.run_id for run in runs]


def report(rows: pa.Table, emitted: int, rejected: int, left: int, max_pulses: int) -> dict[str, Any]:
    """The figures of a session.

    Args:
        rows: its predictions, as recorded.
        left: its events that are still in the stream.
        max_pulses: the model's limit, for the padding.
    """
    names = set(zip(rows["run_id"].to_pylist(), rows["event_id"].to_pylist(), strict=True))
    angles, guesses = numbers(rows, "opening_angle_deg"), numbers(rows, "linefit_opening_angle_deg")
    figures: dict[str, Any] = {
        "version": __version__,
        "emitted": emitted,
        "reconstructed": len(names),
        "rejected": rejected,
        "left_in_stream": left,
        "lost": emitted - len(names) - rejected - left,
        "duplicated": rows.num_rows - len(names),
        "events_per_second": None,
        "latency_seconds": None,
        "opening_angle_deg": mean_median(angles),
        "linefit_opening_angle_deg": mean_median(guesses),
        "score_radians": float(np.radians(angles).mean()) if len(angles) else None,
        "by_kind_deg": {},
        "within_radius": {str(share): within_radius(rows, share) for share in (50, 90)},
        "padding_waste": None,
        "mean_batch_size": None,
    }
    for kind in sorted(set(rows["kind"].drop_null().to_pylist()) - {""}):
        figures["by_kind_deg"][kind] = mean_median(
            numbers(rows.filter(pc.equal(rows["kind"], kind)), "opening_angle_deg")
        )
    if rows.num_rows:
        latency, used = latency_s(rows), rows["n_used"].to_pylist()
        span = (numbers(rows, "stored_ns").max() - numbers(rows, "emitted_ns").min()) * 1e-9
        padded = sum(padded_length(n, max(max_pulses, n)) for n in used)
        figures["events_per_second"] = rows.num_rows / span
        figures["latency_seconds"] = {f"p{share}": float(np.quantile(latency, share / 100)) for share in (50, 95, 99)}
        figures["padding_waste"] = 1 - sum(used) / padded
        figures["mean_batch_size"] = rows.num_rows / len(set(rows["sent_ns"].to_pylist()))
    return figures


def write_report(figures: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(figures, indent=2) + "\n")
