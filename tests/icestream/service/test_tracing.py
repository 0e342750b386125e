"""One event through all processes, as a receiver of OpenTelemetry's protocol sees it."""

import gzip
import json
import threading
from base64 import b64encode
from collections import defaultdict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from icestream.service.tracing import Tracing, tracing
from icestream.streams import keys
from tests.events import event, put, stored
from tests.servers import Program, RedisProcess, TritonProcess
from tests.waiting import ROOT, wait_until
from tritonserver.process import HOST

Start = Callable[..., Program]
EVENTS = 20
TRACED = yaml.safe_load((ROOT / "compose.trace.yaml").read_text())["services"]["triton"]


class Receiver:
    """Keeps the spans that it is sent: by trace, then by name."""

    def __init__(self) -> None:
        self.traces: dict[bytes, dict[str, Any]] = defaultdict(dict)
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                for span in spans_of(body, self.headers["Content-Type"]):
                    receiver.traces[span.trace_id][span.name] = span
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://{HOST}:{self._server.server_port}"
        self.variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def spans_of(body: bytes, content_type: str) -> Iterator[Any]:
    if (
        content_type == "application/json"
    ):  # as Triton sends it: ids are in hexadecimal there, and in base64 in Protobuf's JSON
        found = json.loads(body)
        for span in (span for one in found["resourceSpans"] for scope in one["scopeSpans"] for span in scope["spans"]):
            for name in ("traceId", "spanId", "parentSpanId"):
                span[name] = b64encode(bytes.fromhex(span.get(name, ""))).decode()
        request = ParseDict(found, ExportTraceServiceRequest(), ignore_unknown_fields=True)
    else:
        request = ExportTraceServiceRequest.FromString(body)
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            yield from scope.spans


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    one = Receiver()
    yield one
    one.close()


def test_the_steps_of_an_event_are_one_trace(
    redis_server: RedisProcess, triton: TritonProcess, program: Start, receiver: Receiver, tmp_path: Path
) -> None:
    variables = {**receiver.variables, "OTEL_TRACES_SAMPLER_ARG": "1"}
    given = {"redis_url": redis_server.url, "variables": variables}
    program("bridge", triton_url=triton.url, **given)
    program("recorder", mlflow_url="http://127.0.0.1:1", spool_dir=tmp_path / "spool", window_s=0.5, **given)
    program("emitter", run_id=3, count=EVENTS, rate="max", **given)
    names = {"event", "queue", "wait", "infer", "store", "record"}

    def whole() -> bool:
        return len(receiver.traces) == EVENTS and all(spans.keys() == names for spans in list(receiver.traces.values()))

    wait_until(whole, "all spans of all events", 60)
    for spans in receiver.traces.values():
        root = spans["event"]
        assert not root.parent_span_id
        assert {spans[name].parent_span_id for name in names - {"event"}} == {root.span_id}
        steps = [spans[name] for name in ("queue", "wait", "infer", "store")]
        for one, other in pairwise(steps):
            assert one.start_time_unix_nano <= one.end_time_unix_nano == other.start_time_unix_nano
        assert {attribute.key for attribute in root.attributes} >= {"icestream.run_id", "icestream.event_id"}


def test_triton_continues_the_trace_of_a_request(
    redis: Any, redis_server: RedisProcess, program: Start, receiver: Receiver, tmp_path: Path
) -> None:
    """As compose.trace.yaml starts it: what bears no context is not traced."""
    options = [flag.replace("http://jaeger:4318", receiver.url) for flag in TRACED["command"] if "trace-config" in flag]
    assert len(options) == 5
    triton = TritonProcess(tmp_path, only="icemix", options=options)
    try:
        variables = {**receiver.variables, "OTEL_TRACES_SAMPLER_ARG": "1"}
        program("bridge", redis_url=redis_server.url, triton_url=triton.url, variables=variables)
        put(redis, event(1))
        spans = wait_until(
            lambda: next((one for one in list(receiver.traces.values()) if one.keys() >= {"infer", "compute"}), None),
            "spans of bridge and Triton in one trace",
        )
        of_triton = spans.keys() - {"queue", "wait", "infer", "store"}
        parents = {spans[name].parent_span_id for name in of_triton}
        assert spans["infer"].span_id in parents
        assert parents - {spans["infer"].span_id} <= {spans[name].span_id for name in of_triton}
        assert len(receiver.traces) == 1
    finally:
        triton.close()


def test_all_processes_choose_the_same_events_and_triton_is_given_the_context(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in receiver.variables.items():
        monkeypatch.setenv(name, value)
    one, other = Tracing("emitter", 0.1), Tracing("bridge", 0.1)
    events = [event(number) for number in range(3000)]
    chosen = [one.trace_id(each.run_id, each.event_id) for each in events]
    assert chosen == [other.trace_id(each.run_id, each.event_id) for each in events]
    assert 200 < sum(map(bool, chosen)) < 400
    first = next(number for number, trace_id in enumerate(chosen) if trace_id)
    version, trace_id, span_id, flags = other.traceparent(events[first:]).split("-")
    assert (version, trace_id, flags) == ("00", chosen[first], "01")
    other.answered(_results(events[first]), 5)
    other.close()
    one.close()
    assert receiver.traces[bytes.fromhex(trace_id)]["infer"].span_id.hex() == span_id
    assert other.traceparent(events[:first]) == ""
    assert len({one.trace_id(run_id, event_id) for run_id in (-1, 2**63 - 1) for event_id in (-(2**63), 0)}) <= 4


def _results(of: Any) -> Any:
    from dataclasses import replace

    from icestream.result import pack
    from tests.events import made_result

    results = pack([made_result(of.event_id)])
    results.rows["run_id"] = of.run_id
    return replace(results, sent_ns=3, answered_ns=4)


def test_a_collector_that_is_away_costs_no_event(
    redis: Any, redis_server: RedisProcess, triton: TritonProcess, program: Start
) -> None:
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_SAMPLER_ARG": "1"}
    process = program("bridge", redis_url=redis_server.url, triton_url=triton.url, variables=variables)
    put(redis, *(event(number) for number in range(100)))
    wait_until(lambda: stored(redis) == 100, "all results")
    assert redis.xlen(keys.REJECTED) == 0
    assert process.stop(30) == 0


def test_it_is_off_unless_somebody_wants_it_and_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracing("bridge", {}) is None
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "100")  # below the size of a batch
    with pytest.raises(SystemExit, match="a setting of OpenTelemetry"):
        tracing("bridge", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})
    with pytest.raises(SystemExit, match="OTEL_TRACES_SAMPLER_ARG must be a number from 0 to 1"):
        tracing("bridge", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_SAMPLER_ARG": "all"})
