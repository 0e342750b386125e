"""What is told of the results of a few seconds: the points of MLflow's charts."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from icestream.predictions import TRACKS, latency_s, numbers, within_radius


def aggregates(rows: pa.Table, since_ns: int) -> dict[str, float]:
    """Metrics of one window's results, by name.

    Args:
        rows: its results, at least one.
        since_ns: Unix time at which the window before it ended.
    """
    span_s = max((numbers(rows, "stored_ns").max() - since_ns) * 1e-9, 1e-3)
    latency = latency_s(rows)
    values = {
        "events": float(rows.num_rows),
        "stream/events_per_second": rows.num_rows / span_s,
        "stream/pulses_mean": float(numbers(rows, "n_pulses").mean()),
        "stream/cut_share": float(np.mean(numbers(rows, "n_used") < numbers(rows, "n_pulses"))),
        "latency/p50_seconds": float(np.quantile(latency, 0.5)),
        "latency/p95_seconds": float(np.quantile(latency, 0.95)),
        "latency/p99_seconds": float(np.quantile(latency, 0.99)),
        "latency/triton_mean_seconds": float((numbers(rows, "answered_ns") - numbers(rows, "sent_ns")).mean() * 1e-9),
        "direction/cos_zenith_mean": float(np.cos(numbers(rows, "zenith")).mean()),
        "direction/kappa_mean": float(numbers(rows, "kappa").mean()),
        "direction/kappa_median": float(np.median(numbers(rows, "kappa"))),
    }
    for share in (50, 90):
        if (within := within_radius(rows, share)) is not None:
            values[f"truth/within_radius_{share}_share"] = within
    for column, name in (("opening_angle_deg", "network"), ("linefit_opening_angle_deg", "linefit")):
        groups = {
            "all": rows,
            "cascades": rows.filter(pc.equal(rows["kind"], "cascade")),
            "tracks": rows.filter(pc.is_in(rows["kind"], pa.array(TRACKS))),
        }
        for group, members in groups.items():
            angles = numbers(members, column)
            if len(angles):
                values[f"truth/{name}_{group}_mean_deg"] = float(angles.mean())
                values[f"truth/{name}_{group}_median_deg"] = float(np.median(angles))
    return values
