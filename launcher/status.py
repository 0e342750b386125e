"""How the running stream stands, read from Redis and from the processes' metrics."""

import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

import numpy as np
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis, RedisError

from icestream import wire
from icestream.event import InvalidEvent
from icestream.streams import keys as streams
from launcher.plan import HOST, Plan

SAMPLE = 300  # last results that the latency is taken from


@dataclass(frozen=True)
class Status:
    """One look at the stream."""

    when_s: float  # monotonic
    emitted: int = 0
    backlog: int = 0
    stored: int = 0  # results since the session began
    rejected: int = 0
    unrecorded: int = 0  # results that the recorder has not spooled
    latency_s: tuple[float, float] | None = None  # median and 99 % of the last results


class Probe:
    """Looks at one session's stream.

    Args:
        plan: says where everything is.
    """

    def __init__(self, plan: Plan):
        self._plan = plan
        self._redis: Redis = Redis.from_url(plan.redis_url, protocol=2, socket_timeout=2)
        self._before: tuple[int, int] | None = None  # results and rejected entries before this session

    def ping(self) -> bool:
        try:
            return bool(self._redis.ping())
        except RedisError:
            return False

    def look(self) -> Status | None:
        """How the stream stands; None while Redis is away."""
        try:
            return self._look()
        except RedisError:
            return None

    def _look(self) -> Status:
        stored, rejected = self._added(streams.DIRECTIONS), self._added(streams.REJECTED)
        if self._before is None:
            self._before = (stored, rejected)
        emitted = int(self._redis.hget(f"{streams.EMITTED}:{self._plan.run_id}", "emitted") or 0)
        entries: Any = self._redis.xrevrange(streams.DIRECTIONS, count=SAMPLE)
        latest = [wire.RECONSTRUCTION.decode(fields[wire.FIELD]) for _, fields in entries]
        latency = [
            (result.stored_ns - result.emitted_ns) * 1e-9 for result in latest if result.run_id >= self._plan.run_id
        ]
        return Status(
            time.monotonic(),
            emitted,
            int(self._redis.xlen(streams.EVENTS)),
            stored - self._before[0],
            rejected - self._before[1],
            self._unrecorded(),
            (float(np.median(latency)), float(np.quantile(latency, 0.99))) if latency else None,
        )

    def forget_models(self) -> None:
        """Forget what earlier bridges found served, so that `max_pulses` waits for this session's."""
        for key in self._redis.scan_iter(f"{streams.MODEL}:*"):
            self._redis.delete(key)

    def max_pulses(self) -> int:
        """The served model's limit, as a bridge of this session found it; 0 until then."""
        try:
            found = [self._redis.hget(key, "max_pulses") for key in self._redis.scan_iter(f"{streams.MODEL}:*")]
        except RedisError:
            return 0
        return int(found[0] or 0) if found else 0

    def counts(self) -> tuple[int, int, int]:
        """Of this session's events: emitted, rejected, still in the stream.

        Raises:
            redis.RedisError: Redis is away.
        """
        emitted = int(self._redis.hget(f"{streams.EMITTED}:{self._plan.run_id}", "emitted") or 0)
        return emitted, self._ours(streams.REJECTED), self._ours(streams.EVENTS)

    def _ours(self, stream: str) -> int:
        """Entries that are events of this session's run (or of a later pass over its folder)."""
        count = 0
        entries: Any = self._redis.xrange(stream)
        for _, fields in entries:
            with suppress(InvalidEvent):
                count += wire.decode_event(fields.get(wire.FIELD, b"")).run_id >= self._plan.run_id
        return count

    def _added(self, stream: str) -> int:
        return int(self._redis.xinfo_stream(stream)["entries-added"]) if self._redis.exists(stream) else 0

    def _unrecorded(self) -> int:
        if not self._redis.exists(streams.DIRECTIONS):
            return 0
        for group in self._redis.xinfo_groups(streams.DIRECTIONS):
            if group["name"] == streams.RECORDER_GROUP.encode():
                lag = group["lag"]
                if lag is None:  # after a restart Redis may not know it: count what was not delivered, up to a page
                    missed: Any = self._redis.xrange(
                        streams.DIRECTIONS, min=b"(" + group["last-delivered-id"], count=1000
                    )
                    lag = len(missed)
                return int(group["pending"]) + int(lag)
        return int(self._redis.xlen(streams.DIRECTIONS))

    def mean_angles_deg(self) -> dict[str, float]:
        """Mean opening angle so far by `network` and `linefit`, where the truth is known; empty while the recorder is away."""
        try:
            with urllib.request.urlopen(
                f"http://{HOST}:{self._plan.port['recorder_metrics']}/metrics", timeout=1
            ) as answer:
                text = answer.read().decode()
        except (OSError, HTTPException):
            return {}
        sums: dict[str, dict[str, float]] = {}
        for family in text_string_to_metric_families(text):
            if family.name == "icestream_recorder_opening_angle_degrees":
                for sample in family.samples:
                    sums.setdefault(sample.labels["by"], {})[sample.name.rsplit("_", 1)[1]] = sample.value
        return {by: parts["sum"] / parts["count"] for by, parts in sums.items() if parts.get("count")}


def answers(url: str) -> bool:
    """Whether an HTTP address answers with success."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, HTTPException):
        return False
