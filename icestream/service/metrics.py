"""The metrics of a process: build information, a heartbeat, its CPU and memory, and what its own table lists."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import numpy as np
import prometheus_client
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Info, ProcessCollector, start_http_server

from icestream import __version__

LATENCY_BUCKETS = tuple(0.001 * 2**power for power in range(18))  # 1 ms … 131 s: of a stage, and from emitted to stored
COUNT_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Metric:
    """One row of a process's table of metrics."""

    name: str  # without the prefix icestream_
    kind: Literal["counter", "gauge", "histogram", "info"]
    help: str
    _: KW_ONLY
    label: str = ""  # the one label, if it has one,
    values: Sequence[str] = ()  # and its values, all exposed from the start
    buckets: Sequence[float] = LATENCY_BUCKETS  # of a histogram


class Histogram(prometheus_client.Histogram):
    """A histogram that takes many values at once."""

    def observe_all(self, values: NDArray[Any]) -> None:
        """Observe each of these numbers."""
        places = np.searchsorted(self._upper_bounds, values)  # a bucket counts what is at most its bound
        for place, count in enumerate(np.bincount(places).tolist()):
            if count:
                self._buckets[place].inc(count)
        self._sum.inc(float(values.sum()))


class ProcessMetrics:
    """The metrics of one process.

    Args:
        process: its name.
        table: its own metrics; `self.metrics` has each of them by its name, or by (name, label value).
        exposed: the name under which one is exposed.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        process: str,
        table: Sequence[Metric],
        exposed: Callable[[str], str] = str,
    ):
        self.registry, self._process = registry, process
        Info("icestream_build", "Version of this process", registry=registry).info(
            {"process": process, "version": __version__}
        )
        self._heartbeat = Gauge(
            f"icestream_{process}_heartbeat_timestamp_seconds",
            "Unix time of the last progress of the main loop",
            registry=registry,
        )
        self._waiting_for = Gauge(
            f"icestream_{process}_waiting_for", "1 while the main loop waits for this", ["what"], registry=registry
        )
        self._waited_for = ""
        ProcessCollector(registry=registry)
        self.metrics: Mapping[Any, Any] = {
            key: made for row in table for key, made in _make(row, exposed(row.name), registry).items()
        }

    def beat(self, waiting_for: str = "") -> None:
        """Record progress of the main loop, or what it waits for: a wait without end and without a name stops the heartbeat."""
        self._heartbeat.set(time.time())
        if waiting_for != self._waited_for:
            for what, value in ((self._waited_for, 0), (waiting_for, 1)):
                if what:
                    self._waiting_for.labels(what).set(value)
            self._waited_for = waiting_for

    def serve(self, host: str, port: int) -> int:
        """Serve /metrics from a thread of its own, so that it answers even when the main loop is stuck; returns the port."""
        try:
            server, _ = start_http_server(port, addr=host, registry=self.registry)
        except OSError as error:
            sys.exit(
                f"{self._process}: /metrics cannot be served at {host}:{port} ({error.strerror}): give another port"
            )
        return int(server.server_port)


def _make(row: Metric, exposed: str, registry: CollectorRegistry) -> dict[Any, Any]:
    """A metric, by its name, and each of its labelled children, by (name, value)."""
    arguments: dict[str, Any] = {"labelnames": [row.label] if row.label else [], "registry": registry}
    kinds: dict[str, Any] = {"counter": Counter, "gauge": Gauge, "histogram": Histogram, "info": Info}
    if row.kind == "histogram":
        arguments["buckets"] = row.buckets
    made = kinds[row.kind](f"icestream_{exposed}", row.help, **arguments)
    return {row.name: made} | {(row.name, value): made.labels(value) for value in row.values}
