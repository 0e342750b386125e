"""The table of results as it is recorded: one row per event, its columns named once, and what is read from it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from icestream import direction
from icestream.result import COLUMNS, SHARED, Results
from icestream.truth import Truth

SCHEMA = pa.schema([
    ("run_id", pa.int64()),
    ("event_id", pa.int64()),
    ("azimuth", pa.float64()),  # rad
    ("zenith", pa.float64()),  # rad
    ("kappa", pa.float64()),
    ("radius_50_deg", pa.float64()),  # angles around the direction that hold 50 and 90 % of such events
    ("radius_90_deg", pa.float64()),
    ("n_pulses", pa.int32()),
    ("n_used", pa.int32()),
    ("linefit_azimuth", pa.float64()),  # rad, null where LineFit is undefined
    ("linefit_zenith", pa.float64()),
    ("true_azimuth", pa.float64()),  # rad, null where the truth is not known
    ("true_zenith", pa.float64()),
    ("kind", pa.string()),
    ("opening_angle_deg", pa.float64()),  # null where the truth is not known
    ("linefit_opening_angle_deg", pa.float64()),
    ("model", pa.string()),
    ("model_version", pa.string()),
    ("checkpoint", pa.string()),  # the weights behind the model; empty where it is not known
    ("emitted_ns", pa.int64()),  # Unix times
    ("read_ns", pa.int64()),
    ("sent_ns", pa.int64()),
    ("answered_ns", pa.int64()),
    ("stored_ns", pa.int64()),
])  # fmt: skip


TRACKS = ("through-going", "starting")  # the kinds that are not cascades


def table(results: Sequence[Results], truths: Sequence[Truth | None]) -> pa.Table:
    """Results with the truth of each event, where it is known."""
    rows = np.concatenate([found.rows for found in results])
    sizes = [len(found) for found in results]
    true_azimuth = np.array([truth.azimuth if truth else np.nan for truth in truths])
    true_zenith = np.array([truth.zenith if truth else np.nan for truth in truths])
    known = np.array([truth is not None for truth in truths], bool)
    vector, guess = rows["direction"].astype(np.float64), rows["linefit"].astype(np.float64)
    true_vector = direction.to_vector(true_azimuth, true_zenith)
    guessed: NDArray[np.bool_] = np.any(guess != 0, axis=1)
    columns: dict[str, Any] = {name: np.ascontiguousarray(rows[name]) for name in SCHEMA.names if name in COLUMNS}
    for name in SHARED:
        of_each = pa.array([getattr(found, name) for found in results], SCHEMA.field(name).type)
        columns[name] = of_each.take(np.repeat(np.arange(len(results)), sizes))
    columns["azimuth"], columns["zenith"] = direction.to_angles(vector)
    for name, values in zip(("linefit_azimuth", "linefit_zenith"), direction.to_angles(guess), strict=True):
        columns[name] = _nullable(values, guessed)
    columns["true_azimuth"], columns["true_zenith"] = _nullable(true_azimuth, known), _nullable(true_zenith, known)
    columns["kind"] = [truth.kind if truth else None for truth in truths]
    columns["opening_angle_deg"] = _nullable(np.degrees(direction.opening_angle(vector, true_vector)), known)
    columns["linefit_opening_angle_deg"] = _nullable(
        np.degrees(direction.opening_angle(guess, true_vector)), known & guessed
    )
    return pa.table({name: columns[name] for name in SCHEMA.names}, schema=SCHEMA)


def numbers(rows: pa.Table, name: str) -> NDArray[np.float64]:
    """The values of a column that are not null."""
    values: NDArray[np.float64] = rows[name].drop_null().to_numpy().astype(np.float64)
    return values


def latency_s(rows: pa.Table) -> NDArray[np.float64]:
    """Seconds from emitted to stored of each row."""
    seconds: NDArray[np.float64] = (numbers(rows, "stored_ns") - numbers(rows, "emitted_ns")) * 1e-9
    return seconds


def within_radius(rows: pa.Table, share: int) -> float | None:
    """How many of the answers whose truth is known lie within their 50 or 90 % radius; None if there are none."""
    angle, radius = rows["opening_angle_deg"].to_numpy(), rows[f"radius_{share}_deg"].to_numpy()
    known = np.isfinite(angle) & np.isfinite(radius)
    return float((angle <= radius)[known].mean()) if known.any() else None


def mean_median(values: NDArray[np.float64]) -> dict[str, float] | None:
    """Mean and median, or None of nothing."""
    return {"mean": float(values.mean()), "median": float(np.median(values))} if len(values) else None


def _nullable(values: NDArray[np.float64], known: NDArray[np.bool_]) -> pa.Array:
    return pa.array(values, mask=~known)
