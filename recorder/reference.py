"""The reference distributions of results, exposed as metrics beside the current ones; drift is measured against them.

    python -m recorder.reference part-*.parquet > reference.json

makes one of recorded results that are trusted (the Parquet parts of an MLflow run); ICESTREAM_RECORDER_REFERENCE names it. The one
beside this file is of 10 000 simulated events and the shipped network.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from icestream.results.table import numbers

SHIPPED = Path(__file__).with_name("reference.json")
# The histograms that have a reference, and the upper edges of their buckets.
BUCKETS: dict[str, list[float]] = {
    "kappa": [0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000],
    "cos_zenith": [step / 5 for step in range(-4, 6)],
    "azimuth_degrees": [30 * step for step in range(1, 13)],
    "pulses": [16, 32, 48, 64, 96, 128, 192, 256, 512, 1024, 4096],
    "opening_angle_degrees": [1, 2, 5, 10, 20, 30, 45, 60, 90, 120, 150, 180],
}


def values(rows: pa.Table) -> dict[str, NDArray[np.float64]]:
    """The values that the histograms count, by name."""
    return {
        "kappa": numbers(rows, "kappa"),
        "cos_zenith": np.cos(numbers(rows, "zenith")),
        "azimuth_degrees": np.degrees(numbers(rows, "azimuth")),
        "pulses": numbers(rows, "n_pulses"),
        "opening_angle_degrees": numbers(rows, "opening_angle_deg"),
    }


class Reference(Collector):
    """A reference as histograms that never change.

    Raises:
        ValueError: the file is no reference, or one with other buckets; the message says what to do.
    """

    def __init__(self, path: Path):
        try:
            histograms: dict[str, Any] = json.loads(path.read_text())
            edges = {name: histogram["edges"] for name, histogram in histograms.items()}
            self._families = [_family(name, histogram) for name, histogram in histograms.items()]
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} is no reference ({error}): make one with python -m {__spec__.name}") from None
        if edges != BUCKETS:
            raise ValueError(
                f"{path} has other buckets than this version: make it again with python -m {__spec__.name}"
            )

    def collect(self) -> list[HistogramMetricFamily]:
        return self._families


def _family(name: str, histogram: dict[str, Any]) -> HistogramMetricFamily:
    labels = [*map(floatToGoString, histogram["edges"]), "+Inf"]
    return HistogramMetricFamily(
        f"icestream_recorder_reference_{name}",
        "Reference distribution",
        buckets=list(zip(labels, np.cumsum(histogram["counts"]).tolist(), strict=True)),
        sum_value=float(histogram["sum"]),
    )


def describe(rows: pa.Table) -> str:
    """The reference distributions of results, as JSON."""
    histograms = {}
    for name, found in values(rows).items():
        # Prometheus counts what is at most the edge
        counts = np.bincount(np.searchsorted(BUCKETS[name], found, side="left"), minlength=len(BUCKETS[name]) + 1)
        histograms[name] = {"edges": BUCKETS[name], "counts": counts.tolist(), "sum": round(float(found.sum()), 3)}
    return json.dumps(histograms, indent=1)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit(f"usage: python -m {__spec__.name} PART.parquet ... > reference.json")
    parts = [pq.read_table(path, partitioning=None) for path in sys.argv[1:]]
    sys.stdout.write(describe(pa.concat_tables(parts)) + "\n")
