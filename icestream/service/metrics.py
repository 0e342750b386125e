"""What every process tells: structured logs, /metrics, a heartbeat."""

import logging
import sys
import time

import structlog
from prometheus_client import CollectorRegistry, Gauge, Info, ProcessCollector, start_http_server

from icestream import __version__

# 1 ms … 131 s: latencies of a stage and of the whole way
LATENCY_BUCKETS = [0.001 * 2**power for power in range(18)]
# Of an MLflow experiment: without it the page guesses "GenAI" and hides the charts behind evaluations.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
COUNT_BUCKETS = [1, 2, 4, 8, 16, 32, 64, 128, 256]


def configure_logs(process: str) -> structlog.stdlib.BoundLogger:
    """JSON lines on standard error, one per message."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    log: structlog.stdlib.BoundLogger = structlog.get_logger().bind(process=process)
    return log


class ProcessMetrics:
    """What all processes expose: build information, a heartbeat, the process's own CPU and memory."""

    def __init__(self, registry: CollectorRegistry, process: str):
        self.registry, self._process = registry, process
        Info("icestream_build", "Version of this process", registry=registry).info(
            {"process": process, "version": __version__}
        )
        self._heartbeat = Gauge(
            f"icestream_{process}_heartbeat_timestamp_seconds",
            "Unix time at which the main loop last came round",
            registry=registry,
        )
        ProcessCollector(registry=registry)

    def beat(self) -> None:
        """The main loop is alive."""
        self._heartbeat.set(time.time())

    def serve(self, host: str, port: int) -> None:
        """Serve /metrics from a thread of its own: it answers even when the main loop is stuck."""
        try:
            start_http_server(port, addr=host, registry=self.registry)
        except OSError as error:
            sys.exit(
                f"{self._process}: /metrics cannot be served at {host}:{port} ({error.strerror}): give another port"
            )
