"""The metrics of a window of results in MLflow, and the description of a run."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from icestream.results.table import TRACKS, latency_s, mean_median, numbers, within_radius


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


def description(rows: pa.Table) -> str:
    """The latest results in words, as Markdown: the description of a run."""
    latency = latency_s(rows)
    lines = [
        "Directions of the stream, of one run of the recorder. *Model metrics*: a point for each window. *Artifacts*: all results as Parquet, the latest as pictures and as a table.",
        "",
        f"| the latest {rows.num_rows} events | |",
        "| --- | --- |",
        f"| model | {', '.join(sorted({f'{name} {version}' for name, version in zip(rows['model'].to_pylist(), rows['model_version'].to_pylist(), strict=True)}))} |",
        f"| latency from emitted to stored | p50 {np.quantile(latency, 0.5) * 1e3:.0f} ms, p99 {np.quantile(latency, 0.99) * 1e3:.0f} ms |",
        f"| κ | median {np.median(numbers(rows, 'kappa')):.3g} |",
    ]
    if angle := mean_median(numbers(rows, "opening_angle_deg")):
        guess = mean_median(numbers(rows, "linefit_opening_angle_deg")) or {"mean": np.nan, "median": np.nan}
        lines += [
            f"| opening angle to the truth | mean {angle['mean']:.1f}°, median {angle['median']:.1f}° |",
            f"| the same of LineFit | mean {guess['mean']:.1f}°, median {guess['median']:.1f}° |",
            f"| within the 50 and 90 % radius | {within_radius(rows, 50):.0%}, {within_radius(rows, 90):.0%} |",
        ]
    return "\n".join(lines)
