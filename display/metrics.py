"""The metrics of the display."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry

from icestream.inference.checked_model import STATES
from icestream.service.metrics import Metric, ProcessMetrics

TABLE = (
    Metric(
        "display_requests_total", "counter", "REST requests by status", label="status", values=("2xx", "4xx", "5xx")
    ),
    Metric("display_request_duration_seconds", "histogram", "Duration of a REST request"),
    Metric(
        "display_events_total",
        "counter",
        "Events of REST requests by outcome",
        label="outcome",
        values=("answered", "refused"),
    ),
    Metric("display_tritons", "gauge", "Servers by whether they have proved the model", label="state", values=STATES),
    Metric("display_pages", "gauge", "Pages that follow the stream now"),
    Metric("display_results_total", "counter", "Results of the stream that were read"),
    Metric("display_read_failures_total", "counter", "Times that Redis did not answer"),
)


class DisplayMetrics(ProcessMetrics):
    def __init__(self, registry: CollectorRegistry):
        super().__init__(registry, "display", TABLE)

    def answered(self, status: int, seconds: float) -> None:
        self.metrics["display_requests_total"].labels(f"{status // 100}xx").inc()
        self.metrics["display_request_duration_seconds"].observe(seconds)

    def reconstructed(self, answered: int, refused: int) -> None:
        self.metrics["display_events_total", "answered"].inc(answered)
        self.metrics["display_events_total", "refused"].inc(refused)

    def tritons(self, states: Mapping[str, int]) -> None:
        for state, number in states.items():
            self.metrics["display_tritons", state].set(number)

    def page_opened(self) -> None:
        self.metrics["display_pages"].inc()

    def page_closed(self) -> None:
        self.metrics["display_pages"].dec()

    def read(self, results: int) -> None:
        self.metrics["display_results_total"].inc(results)

    def read_failed(self) -> None:
        self.metrics["display_read_failures_total"].inc()
