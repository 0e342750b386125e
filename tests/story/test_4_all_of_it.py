"""Chapter 4: emitter, Redis, bridge, Triton, recorder and MLflow, each a process: 100 events from the ice to a chart."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from icestream.results.table import mean_median, numbers
from launcher.report import recorded
from tests.events import stored
from tests.servers import Program, RedisProcess, TritonProcess
from tests.waiting import wait_until


def test_a_hundred_events_from_the_ice_to_mlflow(
    redis: Any,
    redis_server: RedisProcess,
    triton: TritonProcess,
    mlflow_url: str,
    program: Callable[..., Program],
    tmp_path: Path,
) -> None:
    program("bridge", redis_url=redis_server.url, triton_url=triton.url)
    recorder = program(
        "recorder",
        redis_url=redis_server.url,
        mlflow_url=mlflow_url,
        spool_dir=tmp_path / "spool",
        session="story",
        window_s=1,
    )
    emitter = program("emitter", redis_url=redis_server.url, count=100, rate=200)

    assert emitter.process.wait(60) == 0
    wait_until(lambda: stored(redis) == 100, "100 results")
    wait_until(lambda: recorder.metric("icestream_recorder_events_total") == 100, "all are on the recorder's disk")
    assert recorder.stop(60) == 0  # it finishes what it has

    rows, [run_id] = recorded(mlflow_url, "story", tmp_path)
    assert rows.num_rows == 100
    network, guess = (
        mean_median(numbers(rows, column)) for column in ("opening_angle_deg", "linefit_opening_angle_deg")
    )
    assert network is not None
    assert guess is not None
    assert network["mean"] < guess["mean"]
    assert len(run_id) == 32
