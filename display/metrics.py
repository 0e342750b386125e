"""All metrics of the display."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from icestream.service.metrics import LATENCY_BUCKETS, ProcessMetrics


class DisplayMetrics(ProcessMetrics):
    def __init__(self, registry: CollectorRegistry):
        super().__init__(registry, "display")
        self._requests = Counter(
            "icestream_display_requests_total", "Requests to REST by what became of them", ["status"], registry=registry
        )
        for status in ("2xx", "4xx", "5xx"):
            self._requests.labels(status)
        self._duration = Histogram(
            "icestream_display_request_duration_seconds",
            "Time of a request to REST",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._events = Counter(
            "icestream_display_events_total",
            "Events asked for by REST, by what became of them",
            ["outcome"],
            registry=registry,
        )
        for outcome in ("answered", "refused"):
            self._events.labels(outcome)
        self._pages = Gauge("icestream_display_pages", "Pages that follow the stream now", registry=registry)
        self._results = Counter(
            "icestream_display_results_total", "Results of the stream that were read", registry=registry
        )
        self._failures = Counter(
            "icestream_display_read_failures_total", "Times that Redis did not answer", registry=registry
        )

    def answered(self, status: int, seconds: float) -> None:
        self._requests.labels(f"{status // 100}xx").inc()
        self._duration.observe(seconds)

    def reconstructed(self, answered: int, refused: int) -> None:
        self._events.labels("answered").inc(answered)
        self._events.labels("refused").inc(refused)

    def page_opened(self) -> None:
        self._pages.inc()

    def page_closed(self) -> None:
        self._pages.dec()

    def read(self, results: int) -> None:
        self._results.inc(results)

    def read_failed(self) -> None:
        self._failures.inc()
