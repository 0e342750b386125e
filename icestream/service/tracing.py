"""One event through all processes, as an OpenTelemetry trace. Off unless OTEL_EXPORTER_OTLP_ENDPOINT is set.

No context travels with an event: the ids of its trace and spans, and whether it is traced at all, follow from run_id and event_id, so
that all processes come to the same. Spans are made when a step is over, from the time stamps that results carry anyway.

    event (emitter) ─┬─ queue ── wait ── infer ── store (bridge)      infer ── Triton's own spans
                     └─ record (recorder)
"""

import os
import struct
import sys
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from hashlib import blake2b
from itertools import pairwise
from math import nan
from typing import Any

from icestream.event import Event
from icestream.result import Results

ENDPOINT, RATIO = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_SAMPLER_ARG"
DEFAULT_RATIO = 0.01
FLUSH_S = 5.0  # for the last spans when a process ends


def tracing(service: str, environment: Mapping[str, str] = os.environ) -> "Tracing | None":
    """The traces of a process; None where nobody wants them. A ratio that is none ends the process with a sentence."""
    if not environment.get(ENDPOINT):
        return None
    given, ratio = environment.get(RATIO) or str(DEFAULT_RATIO), nan
    with suppress(ValueError):
        ratio = float(given)
    if not 0 <= ratio <= 1:
        sys.exit(f"{service}: {RATIO} must be a number from 0 to 1 (got {given!r})")
    try:
        return Tracing(service, ratio)
    except ValueError as error:
        sys.exit(f"{service}: a setting of OpenTelemetry (OTEL_…) is wrong: {error}")


class Tracing:
    """Sends spans in the background; where the collector is away or slow they are dropped.

    Args:
        service: the process.
        ratio: of the events that are traced; the same in all processes.
    """

    def __init__(self, service: str, ratio: float):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self._bound = int(ratio * 2**64)
        self._resource = Resource.create({"service.name": f"icestream-{service}"})
        self._processor = BatchSpanProcessor(OTLPSpanExporter())

    def trace_id(self, run_id: int, event_id: int) -> str:
        """Of a traced event, in hexadecimal; empty for any other."""
        ids = self._ids(run_id, event_id)
        return f"{ids[0]:032x}" if ids else ""

    def traceparent(self, events: Iterable[Event]) -> str:
        """The context of a request to Triton, by the first of its events that is traced; empty if none is."""
        for event in events:
            if ids := self._ids(event.run_id, event.event_id):
                return f"00-{ids[0]:032x}-{_child(ids[1], 'infer'):016x}-01"
        return ""

    def emitted(self, events: Iterable[tuple[int, int]], began_ns: int, ended_ns: int) -> None:
        """(run_id, event_id) of events that were written into the stream. Unix times."""
        for event in events:
            if ids := self._ids(*event):
                self._send(ids, event, "event", (began_ns, ended_ns))

    def answered(self, results: Results, stored_ns: int) -> None:
        """Results that were stored."""
        for row, ids in self._traced(results):
            event = (int(row["run_id"]), int(row["event_id"]))
            edges = [int(row["emitted_ns"]), int(row["read_ns"]), results.sent_ns, results.answered_ns, stored_ns]
            for name, times in zip(("queue", "wait", "infer", "store"), pairwise(edges), strict=True):
                self._send(ids, event, name, times, model=results.model, batch=len(results))

    def recorded(self, results: Results, now_ns: int) -> None:
        """Results that are on the recorder's disk."""
        for row, ids in self._traced(results):
            event = (int(row["run_id"]), int(row["event_id"]))
            self._send(ids, event, "record", (results.stored_ns, now_ns))

    def close(self) -> None:
        """Send what is left, for FLUSH_S at most: the SDK would wait for a collector that does not respond."""
        sending = threading.Thread(target=self._processor.shutdown, daemon=True)
        sending.start()
        sending.join(FLUSH_S)

    def _traced(self, results: Results) -> Iterable[tuple[Any, tuple[int, int]]]:
        for row in results.rows:
            if ids := self._ids(int(row["run_id"]), int(row["event_id"])):
                yield row, ids

    def _ids(self, run_id: int, event_id: int) -> tuple[int, int] | None:
        """Trace and first span of an event that is traced."""
        made = blake2b(struct.pack("<qq", run_id, event_id), digest_size=24).digest()
        if int.from_bytes(made[8:16]) >= self._bound:
            return None
        return int.from_bytes(made[:16]), int.from_bytes(made[16:])

    def _send(
        self, ids: tuple[int, int], event: tuple[int, int], name: str, times: tuple[int, int], **attributes: str | int
    ) -> None:
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

        def context(span_id: int) -> SpanContext:
            return SpanContext(ids[0], span_id, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))

        first = name == "event"
        named = {"icestream.run_id": event[0], "icestream.event_id": event[1]}
        self._processor.on_end(
            ReadableSpan(
                name=name,
                context=context(ids[1] if first else _child(ids[1], name)),
                parent=None if first else context(ids[1]),
                resource=self._resource,
                attributes=named | {f"icestream.{key}": value for key, value in attributes.items()},
                kind=SpanKind.CLIENT if name == "infer" else SpanKind.INTERNAL,
                start_time=max(0, times[0]),  # unsigned on the wire
                end_time=max(0, *times),
            )
        )


def _child(span_id: int, name: str) -> int:
    """The id of a span by its parent and name."""
    return int.from_bytes(blake2b(struct.pack("<Q", span_id) + name.encode(), digest_size=8).digest())
