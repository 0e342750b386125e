"""What is happening in the stream, read from Redis as it happens: the latest results, their truths, the events kept with pulses."""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from redis import Redis, RedisError
from redis.exceptions import ResponseError

from display.metrics import DisplayMetrics
from icestream import wire
from icestream.direction import opening_angle, to_angles, to_vector
from icestream.event import Event, InvalidEvent, Reconstruction, Truth
from icestream.streams import keys as streams

KEPT_RESULTS = 20_000
KEPT_TRUTHS = 40_000  # a truth comes before its result
READ_AT_ONCE = 2000
BLOCK_MS = 200
LOOK_S = 1.0  # between two looks at how the streams stand
PAUSE_S = 1.0  # while Redis is away
ALIVE_S = 5.0  # a process that has asked Redis for nothing for so long is not alive; all ask at least every two seconds
SPAN_S = 10.0  # of rates and latencies

Name = tuple[int, int]  # run_id, event_id


@dataclass(frozen=True)
class Seen:
    """A result as it came by."""

    result: Reconstruction
    azimuth: float  # rad
    zenith: float
    truth: Truth | None

    @property
    def name(self) -> str:
        """How a link addresses it."""
        return f"{self.result.run_id}-{self.result.event_id}"

    @property
    def opening_angle_deg(self) -> float | None:
        """To the truth, where it is known."""
        if self.truth is None:
            return None
        return float(np.degrees(opening_angle(self.result.direction, to_vector(self.truth.azimuth, self.truth.zenith))))


@dataclass(frozen=True)
class Standing:
    """How the stream stands now."""

    redis: bool
    backlog: int | None
    emitted_per_s: float | None
    stored_per_s: float
    latency_p99_s: float | None
    opening_angle_mean_deg: float | None
    emitter: bool
    bridges: int  # alive
    recorder: bool
    rejected: int | None  # ever


AWAY = Standing(False, None, None, 0.0, None, None, False, 0, False, None)  # Redis does not answer


class Watch:
    """Follows the stream from a thread. All other methods may be called from any thread."""

    def __init__(self, redis: Redis, metrics: DisplayMetrics, clock: Callable[[], float] = time.time):
        self._redis, self._metrics, self._clock = redis, metrics, clock
        self._read_to = dict.fromkeys((streams.DIRECTIONS, streams.TRUTH, streams.SHOWN), b"0")
        self._lock = threading.Lock()
        self._results: deque[Seen] = deque(maxlen=KEPT_RESULTS)
        self._number = 0  # results ever seen
        self._by_name: OrderedDict[Name, Seen] = OrderedDict()
        self._truths: OrderedDict[Name, Truth] = OrderedDict()
        self._shown: OrderedDict[Name, bytes] = OrderedDict()
        self._standing = AWAY
        self._emitted: deque[tuple[float, int]] = deque(maxlen=int(SPAN_S / LOOK_S))

    def follow(self, stop: threading.Event) -> None:
        """Read until stopped, whatever Redis does."""
        looked = 0.0
        while not stop.is_set():
            self._metrics.beat()
            try:
                found = self._read(streams.DIRECTIONS, BLOCK_MS)
                # After the results: a truth is in its stream before its event, an event that is shown is written with its result.
                for stream, take in ((streams.TRUTH, self._take_truth), (streams.SHOWN, self._take_shown)):
                    while entries := self._read(stream, None):
                        for _, fields in entries:
                            take(fields)
                self._take_results(found)
                if self._clock() - looked > LOOK_S:
                    looked = self._clock()
                    self._standing = self._look()
            except RedisError:
                self._metrics.read_failed()
                self._standing = AWAY
                stop.wait(PAUSE_S)

    def latest(self, after: int, limit: int) -> tuple[int, list[Seen]]:
        """Results seen after the one of a number, the surest of them if there are more than `limit`, and the number to go on from."""
        with self._lock:
            fresh = min(self._number - after, len(self._results))
            found = [self._results[index] for index in range(len(self._results) - fresh, len(self._results))]
            number = self._number
        if len(found) > limit:
            found = (
                sorted(found, key=lambda seen: -seen.result.kappa)[: limit // 4]
                + found[:: -(-len(found) // (limit - limit // 4))]
            )
        return number, found

    def find(self, name: Name) -> tuple[Seen | None, Event | None]:
        """A result of the latest, and its event with the pulses if it was kept."""
        with self._lock:
            seen, payload = self._by_name.get(name), self._shown.get(name)
        try:
            return seen, None if payload is None else wire.decode_event(payload).within_readout()
        except InvalidEvent:  # what is shown was written by something else than a bridge
            return seen, None

    def select(self, since_s: float, min_kappa: float, limit: int) -> list[Seen]:
        """Results stored since a Unix time that are so sure, the latest first."""
        with self._lock:
            results = list(self._results)
        found: list[Seen] = []
        for seen in reversed(results):
            if seen.result.stored_ns < since_s * 1e9 or len(found) == limit:
                break
            if seen.result.kappa >= min_kappa:
                found.append(seen)
        return found

    def shown(self, limit: int) -> list[Seen]:
        """The surest result of each of the last seconds whose event is kept with its pulses, the latest first."""
        with self._lock:
            kept = [self._by_name[name] for name in reversed(self._shown) if name in self._by_name]
        surest: dict[int, Seen] = {}
        for seen in kept:
            second = seen.result.stored_ns // 1_000_000_000
            if second not in surest or seen.result.kappa > surest[second].result.kappa:
                surest[second] = seen
        return list(surest.values())[:limit]

    @property
    def standing(self) -> Standing:
        return self._standing

    def _read(self, stream: str, block_ms: int | None) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """What is new in a stream."""
        answer: Any = self._redis.xread({stream: self._read_to[stream]}, count=READ_AT_ONCE, block=block_ms)
        entries = [entry for _, found in answer or [] for entry in found]
        if entries:
            self._read_to[stream] = entries[-1][0]
        return entries

    def _take_truth(self, fields: dict[bytes, bytes]) -> None:
        try:
            truth = wire.TRUTH.decode(fields.get(wire.FIELD, b""))
        except InvalidEvent:
            return
        self._truths[truth.run_id, truth.event_id] = truth
        if len(self._truths) > KEPT_TRUTHS:
            self._truths.popitem(last=False)

    def _take_shown(self, fields: dict[bytes, bytes]) -> None:
        try:
            result = wire.RECONSTRUCTION.decode(fields.get(b"result", b""))
        except InvalidEvent:
            return
        with self._lock:
            self._shown[result.run_id, result.event_id] = fields.get(wire.FIELD, b"")
            if len(self._shown) > streams.SHOWN_KEPT:
                self._shown.popitem(last=False)

    def _take_results(self, entries: list[tuple[bytes, dict[bytes, bytes]]]) -> None:
        results: list[Reconstruction] = []
        for _, fields in entries:
            try:
                results.append(wire.RECONSTRUCTION.decode(fields.get(wire.FIELD, b"")))
            except InvalidEvent:
                continue
        if not results:
            return
        azimuth, zenith = to_angles([result.direction for result in results])
        with self._lock:
            for result, az, zen in zip(results, azimuth.tolist(), zenith.tolist(), strict=True):
                name = (result.run_id, result.event_id)
                seen = Seen(result, az, zen, self._truths.pop(name, None))
                if len(self._results) == KEPT_RESULTS:
                    gone = self._results[0].result
                    self._by_name.pop((gone.run_id, gone.event_id), None)
                self._results.append(seen)
                self._by_name[name] = seen
            self._number += len(results)
        self._metrics.read(len(results))

    def _look(self) -> Standing:
        now = self._clock()
        backlog = int(self._redis.xlen(streams.EVENTS))
        rejected = self._info(streams.REJECTED).get("entries-added", 0)
        events = self._info(streams.EVENTS)
        self._emitted.append((now, int(events.get("entries-added", 0))))
        (then, before), (_, last) = self._emitted[0], self._emitted[-1]
        recent = self.select(now - SPAN_S, 0.0, KEPT_RESULTS)
        latency = [(seen.result.stored_ns - seen.result.emitted_ns) * 1e-9 for seen in recent]
        angles = [angle for seen in recent[:500] if (angle := seen.opening_angle_deg) is not None]
        return Standing(
            True,
            backlog,
            (last - before) / (now - then) if now > then else None,
            len(recent) / SPAN_S,
            float(np.quantile(latency, 0.99)) if latency else None,
            float(np.mean(angles)) if angles else None,
            now - int(str(events.get("last-generated-id", b"0-0"), "ascii").split("-")[0]) / 1000 < ALIVE_S,
            self._alive(streams.EVENTS, streams.BRIDGE_GROUP),
            self._alive(streams.DIRECTIONS, streams.RECORDER_GROUP) > 0,
            int(rejected),
        )

    def _info(self, stream: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = self._redis.xinfo_stream(stream)
        except ResponseError:  # nobody has written to it yet
            return {}
        return found

    def _alive(self, stream: str, group: str) -> int:
        try:
            consumers: list[dict[str, Any]] = self._redis.xinfo_consumers(stream, group)
        except ResponseError:  # nobody has joined it yet
            return 0
        return sum(consumer["idle"] < ALIVE_S * 1000 for consumer in consumers)
