"""The state of a session's stream, read from Redis and from the display."""

import json
import time
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from icestream import wire
from icestream.streams import keys
from icestream.streams.connection import RedisError, connect
from icestream.streams.publisher import count_run, read_description
from icestream.streams.results import latest_results, payloads
from icestream.streams.status import StreamStatus, read_status
from launcher.plan import Plan
from launcher.report import Counts
from tritonserver.process import HOST

SAMPLE = 100  # latest entries of results that the latency is computed from


@dataclass(frozen=True, kw_only=True)
class SessionStatus:
    """The state of the stream at one moment."""

    when_s: float  # monotonic
    emitted: int
    stored: int  # results of the session
    rejected: int  # since the session began
    stream: StreamStatus
    latency_s: tuple[float, float] | None  # median and 99 % of the latest results
    angles_deg: dict[str, float]  # mean opening angle by `network` and `linefit`, where the truth is known


class Probe:
    """Reads the state of one session's stream."""

    def __init__(self, plan: Plan):
        self._plan = plan
        self._redis = connect(plan.redis_url, plan.redis_password)
        self._before: StreamStatus | None = None  # when the session began

    def ping(self) -> bool:
        try:
            return bool(self._redis.ping())
        except RedisError:
            return False

    def begin(self) -> None:
        """Note what earlier sessions have left; raises RedisError."""
        self._before = read_status(self._redis)

    def read(self) -> SessionStatus | None:
        """The state now; None while Redis is away."""
        try:
            stream = read_status(self._redis)
            results = latest_results(self._redis, SAMPLE)
            run = count_run(self._redis, self._plan.run_id)
        except RedisError:
            return None
        first = self._plan.run_id
        latency = [
            one
            for found in results
            for one in found.latency_s[(found.rows["run_id"] >= first) & (found.rows["run_id"] <= run.latest)].tolist()
        ]
        before = self._before or stream
        return SessionStatus(
            when_s=time.monotonic(),
            emitted=run.emitted,
            stored=run.stored,
            rejected=stream.rejected_total - before.rejected_total,
            stream=stream,
            latency_s=(float(np.median(latency)), float(np.quantile(latency, 0.99))) if latency else None,
            angles_deg=self._angles_deg(),
        )

    def tritons(self) -> dict[str, float]:
        """The Tritons of the bridge by whether they have proved the model; empty while it does not answer."""
        port = self._plan.ports["bridge_metrics"]
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=0.5) as answer:
                families = list(text_string_to_metric_families(answer.read().decode()))
        except (OSError, HTTPException, ValueError):
            return {}
        [found] = [family for family in families if family.name == "icestream_bridge_tritons"]
        return {sample.labels["state"]: sample.value for sample in found.samples}

    def counts(self) -> Counts:
        """Events of this session by what became of them; raises RedisError."""
        run = count_run(self._redis, self._plan.run_id)
        return Counts(
            emitted=run.emitted,
            latest=run.latest,
            forgotten=run.forgotten,
            reconstructed=run.stored,
            repeated=run.repeated,
            rejected=run.rejected,
            left_in_stream=self._left_in_stream(run.latest),
            truth=read_description(self._redis, self._plan.run_id).get("truth", ""),
        )

    def _left_in_stream(self, latest: int) -> int:
        """Entries that are events of this session's run, or of a later pass over its folder up to this one."""
        runs = (wire.run_of(payload) for payload in payloads(self._redis, keys.EVENTS))
        return sum(run_id is not None and self._plan.run_id <= run_id <= latest for run_id in runs)

    def _angles_deg(self) -> dict[str, float]:
        status = fetch_json(f"{self._plan.display_url}/v1/status") or {}
        names = {"network": "opening_angle_mean_deg", "linefit": "linefit_opening_angle_mean_deg"}
        return {by: status[name] for by, name in names.items() if status.get(name) is not None}


def fetch_json(url: str) -> Any:
    """The JSON at an address; None if it does not answer."""
    try:
        with urllib.request.urlopen(url, timeout=0.5) as answer:
            return json.load(answer)
    except (OSError, HTTPException, ValueError):
        return None
