"""What MLflow gets of the recorder's results, whatever happens to it or to the spool meanwhile."""

import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from prometheus_client import CollectorRegistry

from icestream import wire
from icestream.service.logs import configure_logs
from icestream.streams import keys
from icestream.streams.connection import connect
from icestream.streams.publisher import Publisher
from icestream.streams.results import GroupReader
from launcher.report import recorded
from recorder.collector import Collector
from recorder.judge import Judge
from recorder.loops import collect, upload
from recorder.metrics import RecorderMetrics
from recorder.retention import Retention
from recorder.settings import RecorderSettings
from recorder.uploader import Uploader
from tests.events import encoded, made_result
from tests.recorder.streams import SPOOLS, collector, put_results, spool, spooled
from tests.servers import Program, RedisProcess
from tests.waiting import wait_until
from tritonserver.process import HOST

Start = Callable[..., Program]


def runs(mlflow_url: str, session: str) -> list[Any]:
    client = MlflowClient(mlflow_url)
    experiment = client.get_experiment_by_name("icestream")
    return (
        list(client.search_runs([experiment.experiment_id], f"tags.`icestream.session` = '{session}'"))
        if experiment
        else []
    )


@pytest.fixture
def recorder(redis_server: RedisProcess, mlflow_url: str, program: Start, tmp_path: Path) -> Start:
    def start(**settings: object) -> Program:
        given = {"redis_url": redis_server.url, "mlflow_url": mlflow_url, "spool_dir": tmp_path / "spool", **settings}
        return program("recorder", **given)

    return start


def test_mlflow_gets_charts_parts_pictures_parameters_and_tags(
    redis: Any, redis_server: RedisProcess, mlflow_url: str, recorder: Start, tmp_path: Path
) -> None:
    Publisher(connect(redis_server.url), run_id=7).begin({"source": "simulate", "rate": "100.0", "seed": "42"})
    process = recorder(session="s1", window_s=0.5)
    put_results(redis, *range(50))
    wait_until(lambda: process.metric("icestream_recorder_uploads_total") > 0, "an upload")
    put_results(redis, *range(50, 80))
    assert process.stop(60) == 0
    [run] = runs(mlflow_url, "s1")
    assert run.info.status == "FINISHED"
    assert run.data.tags["model.checkpoint"] == "c.safetensors sha256:0"
    assert (run.data.tags["model.name"], run.data.tags["model.version"]) == ("icemix", "1")
    assert models_since(run) == ["icemix 1 c.safetensors sha256:0"]
    assert run.data.params == {
        "source": "simulate", "rate": "100.0", "seed": "42", "run_id": "7", "model": "icemix", "model_version": "1",
        "window_s": "0.5", "part_s": "60.0",
    }  # fmt: skip
    client = MlflowClient(mlflow_url)
    assert len(client.get_metric_history(run.info.run_id, "latency/p99_seconds")) >= 2
    assert "truth/network_cascades_mean_deg" in run.data.metrics
    assert {a.path for a in client.list_artifacts(run.info.run_id, "latest")} == {
        "latest/sky.png", "latest/opening_angle.png", "latest/predictions.csv",
    }  # fmt: skip
    assert "| the latest 80 events | |" in run.data.tags["mlflow.note.content"]
    assert "| opening angle to the truth | mean " in run.data.tags["mlflow.note.content"]
    rows, ids = recorded(mlflow_url, "s1", tmp_path)
    assert ids == [run.info.run_id]
    assert rows["event_id"].to_pylist() == list(range(80))
    assert {path.name for path in (tmp_path / "spool").iterdir()} == {"lock", "recent.npy"}


def models_since(run: Any) -> list[str]:
    """The models that a run is tagged with, by the time of their first result."""
    since = sorted((tag, words) for tag, words in run.data.tags.items() if tag.startswith("model.since."))
    return [words for _, words in since]


def test_a_run_names_each_model_that_made_some_of_its_results(redis: Any, mlflow_url: str, recorder: Start) -> None:
    process = recorder(session="models", window_s=0.2)
    for number, version in enumerate(["1", "2", "1"]):
        result = made_result(number, model_version=version, stored_ns=10**18 + number * 10**9)
        redis.xadd(keys.DIRECTIONS, {wire.FIELD: encoded(result)})
        wait_until(lambda: process.metric("icestream_recorder_uploads_total", outcome="done") > number, "an upload")  # noqa: B023
    assert process.stop(60) == 0
    [run] = runs(mlflow_url, "models")
    assert models_since(run) == ["icemix 1 c.safetensors sha256:0", "icemix 2 c.safetensors sha256:0"]


def test_a_run_has_an_end_and_its_results_are_kept_as_long_as_wanted(
    redis: Any, mlflow_url: str, recorder: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(mlflow_url)

    def found() -> list[Any]:
        experiment = client.get_experiment_by_name("days")
        return list(client.search_runs([experiment.experiment_id], order_by=["start_time ASC"])) if experiment else []

    process = recorder(experiment="days", window_s=0.2, run_hours=1e-9)
    put_results(redis, 1)
    wait_until(lambda: len(found()) == 1, "a run")
    put_results(redis, 2)
    wait_until(lambda: len(found()) == 2, "another run")
    assert process.stop(60) == 0
    assert [run.info.status for run in found()] == ["FINISHED", "FINISHED"]
    assert all(client.list_artifacts(run.info.run_id, "predictions") for run in found())

    now_s = 10_000.0
    monkeypatch.setattr("recorder.retention.time.monotonic", lambda: now_s)
    retention = Retention(client, "days", 1e-9, configure_logs("recorder"))
    for later_s in (0, 1800, 1801):  # one look is not enough: the time of day may be wrong for a while
        assert not any("icestream.results_deleted" in run.data.tags for run in found())
        now_s += later_s
        retention.apply()
    now_s += 3600
    retention.apply()
    assert all("icestream.results_deleted" in run.data.tags for run in found())
    for run in found():
        assert run.data.metrics["events"] == 1
        assert {artifact.path for artifact in client.list_artifacts(run.info.run_id)} == {"latest"}


def test_a_run_is_linked_to_the_registered_version_that_made_it(redis: Any, mlflow_url: str, recorder: Start) -> None:
    client = MlflowClient(mlflow_url)
    made = client.create_run(client.create_experiment("models-of-a-test")).info.run_id
    if not client.search_registered_models("name = 'icemix'"):
        client.create_registered_model("icemix")
    versions = [
        client.create_model_version("icemix", f"runs:/{made}/model", made, tags={"checkpoint": checkpoint})
        for checkpoint in ("another sha256:123", "c.safetensors sha256:0")
    ]
    process = recorder(session="linked", window_s=0.5)
    put_results(redis, *range(5))
    wait_until(lambda: process.metric("icestream_recorder_uploads_total") > 0, "an upload")
    assert process.stop(60) == 0
    [run] = runs(mlflow_url, "linked")
    assert run.data.tags["model.registered"] == f"models:/icemix/{versions[1].version}"


def test_results_wait_on_disk_while_mlflow_is_away(
    redis: Any, mlflow_url: str, recorder: Start, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    away = recorder(mlflow_url="http://127.0.0.1:1", session="s2", window_s=0.3)
    put_results(redis, *range(20))
    wait_until(
        lambda: away.metric("icestream_recorder_uploads_total") > 0 and len(spooled(spool)) == 20, "failed uploads"
    )
    wait_until(lambda: away.metric("icestream_recorder_spool_files") > 0, "the spool's size is told meanwhile")
    away.kill()
    put_results(redis, *range(20, 30))
    back = recorder(session="s2", window_s=0.3)
    wait_until(
        lambda: sum(run.info.status == "KILLED" for run in runs(mlflow_url, "s2")) == 1, "the earlier start's run"
    )
    assert back.stop(60) == 0
    rows, ids = recorded(mlflow_url, "s2", tmp_path)
    assert sorted(rows["event_id"].to_pylist()) == list(range(30))
    assert len(ids) == 2  # one run per start


@pytest.mark.parametrize("reply", [b"{}", b"", b'{"experiment": 5}', b'{"experiment": null, "runs": null}', b"<html>"])
def test_a_server_that_is_no_mlflow_costs_no_result(
    redis: Any, mlflow_url: str, recorder: Start, tmp_path: Path, reply: bytes
) -> None:
    """As a proxy that is still starting: everything is answered with 200 and these bytes."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        do_POST = do_PATCH = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            """No line for each request."""

    session = f"wrong {len(reply)}"
    with ThreadingHTTPServer((HOST, 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        misled = recorder(mlflow_url=f"http://{HOST}:{server.server_port}", session=session, window_s=0.2)
        put_results(redis, *range(5))
        wait_until(lambda: misled.log.count("upload failed") > 1, "uploads fail")
        misled.kill()
        server.shutdown()
    recorder(session=session, window_s=0.2)
    wait_until(lambda: recorded(mlflow_url, session, tmp_path)[0].num_rows == 5, "all results")


def test_a_run_that_a_crash_has_left_keeps_its_parameters(
    redis: Any, mlflow_url: str, recorder: Start, tmp_path: Path
) -> None:
    process = recorder(session="s3", window_s=0.2)
    put_results(redis, 1)
    wait_until(lambda: process.metric("icestream_recorder_uploads_total") > 0, "an upload")
    process.kill()
    again = recorder(session="s3", window_s=0.3)  # another setting, and results of another run and model
    other = made_result(2, run_id=9, model_version="2")
    redis.xadd(keys.DIRECTIONS, {wire.FIELD: encoded(other)})
    wait_until(lambda: len(recorded(mlflow_url, "s3", tmp_path)[0]) == 1, "the results of the first")
    assert again.stop(60) == 0
    rows, _ = recorded(mlflow_url, "s3", tmp_path)
    assert sorted(rows["event_id"].to_pylist()) == [1, 2]
    found = {run.data.params["run_id"]: run.data.params["window_s"] for run in runs(mlflow_url, "s3")}
    assert found == {"7": "0.2", "9": "0.3"}


def test_two_recorders_of_one_stream_record_nothing_twice(
    redis: Any, mlflow_url: str, recorder: Start, tmp_path: Path
) -> None:
    first = recorder(session="two", window_s=0.5)
    put_results(redis, *range(20))
    wait_until(lambda: first.metric("icestream_recorder_events_total") == 20, "the first records")
    on_its_spool = recorder(session="two")
    assert on_its_spool.process.wait(60) == 1
    assert "another recorder uses" in on_its_spool.log
    second = recorder(session="two", spool_dir=tmp_path / "other")
    put_results(redis, *range(20, 40))
    assert second.process.wait(60) == 1
    assert "reads these streams: one Redis has one recorder" in second.log
    assert "Traceback" not in second.log + on_its_spool.log
    assert first.stop(60) == 0
    rows, _ = recorded(mlflow_url, "two", tmp_path)
    assert sorted(rows["event_id"].to_pylist()) == list(range(40))


def test_a_damaged_window_is_set_aside_and_the_others_are_uploaded(
    redis: Any, mlflow_url: str, recorder: Start, tmp_path: Path
) -> None:
    one = collector(redis, tmp_path / "spool")
    for number in (1, 2, 3):
        put_results(redis, number)
        one.read(None)
        one.close_window()
    second = sorted((tmp_path / "spool").glob("*/window-*.parquet"))[1]
    second.write_bytes(second.read_bytes()[:100])
    SPOOLS.pop(tmp_path / "spool").close()
    redis.delete(keys.RECORDER)
    process = recorder(session="damaged", window_s=0.5)
    put_results(redis, 4)
    wait_until(lambda: process.metric("icestream_recorder_events_total") == 1, "it records")
    assert process.metric("icestream_recorder_damaged_windows_total") == 1
    assert process.stop(60) == 0
    rows, _ = recorded(mlflow_url, "damaged", tmp_path)
    assert sorted(rows["event_id"].to_pylist()) == [1, 3, 4]
    assert len(list((tmp_path / "spool" / "damaged").iterdir())) == 1


@pytest.mark.parametrize("deleted", ["run", "experiment"])
def test_what_somebody_deletes_in_mlflow_stops_no_upload(
    redis: Any, mlflow_url: str, recorder: Start, tmp_path: Path, deleted: str
) -> None:
    session, client = f"deleted {deleted}", MlflowClient(mlflow_url)
    process = recorder(session=session, experiment=session, window_s=0.2)
    put_results(redis, 1)
    wait_until(lambda: process.metric("icestream_recorder_uploads_total", outcome="done") > 0, "an upload")
    experiment = client.get_experiment_by_name(session)
    [run] = client.search_runs([experiment.experiment_id])
    if deleted == "run":
        client.delete_run(run.info.run_id)
    else:
        client.delete_experiment(experiment.experiment_id)
    put_results(redis, 2)

    def uploaded_again() -> bool:
        found = client.search_runs([experiment.experiment_id])
        return bool(found) and found[0].info.run_id != run.info.run_id

    if deleted == "run":
        wait_until(uploaded_again, "another run takes the results")
    assert process.stop(60) == 0
    assert "somebody has deleted the MLflow" in process.log
    assert client.get_experiment(experiment.experiment_id).lifecycle_stage == "active"
    assert {path.name for path in (tmp_path / "spool").iterdir()} == {"lock", "recent.npy"}
    assert "Traceback" not in process.log


class Trickling(BaseHTTPRequestHandler):
    """Answers a byte now and then: no read of it ever takes too long."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        with suppress(OSError):
            while not self.server.over.wait(0.05):  # type: ignore[attr-defined]
                self.wfile.write(b" ")

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """No line for each request."""


def test_an_mlflow_whose_replies_have_no_end_is_named_and_holds_up_nothing(
    redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recorder.uploader.HANGS_S", 0.5)
    monkeypatch.setattr("recorder.loops.CLOSING_S", 0.0)
    server = ThreadingHTTPServer((HOST, 0), Trickling)
    server.over = threading.Event()  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    registry, log, stop = CollectorRegistry(), configure_logs("recorder"), threading.Event()
    settings = RecorderSettings(mlflow_url=f"http://{HOST}:{server.server_port}")
    metrics, files = RecorderMetrics(registry), spool(tmp_path)
    uploader = Uploader(
        files,
        settings,
        metrics,
        describe_run=lambda _: {},
        read_challenge=lambda: None,
        log=log,
    )
    redis.delete(keys.RECORDER)
    one = Collector(GroupReader(redis), files, metrics)
    given = {"stop": stop, "hangs": lambda: uploader.hangs, "metrics": metrics, "log": log}
    collecting = threading.Thread(target=collect, args=(one, Judge(redis, metrics, log), 0.1), kwargs=given)
    collecting.start()
    try:
        put_results(redis, 1)
        wait_until(lambda: spooled(tmp_path) == [1], "a window")
        given_too = {"stop": stop, "metrics": metrics, "log": log}
        sending = threading.Thread(target=upload, args=(uploader, 0.1), kwargs=given_too, daemon=True)
        sending.start()
        waiting = {"what": "mlflow"}
        wait_until(lambda: registry.get_sample_value("icestream_recorder_waiting_for", waiting) == 1, "it is named")
        put_results(redis, 2)
        wait_until(
            lambda: registry.get_sample_value("icestream_recorder_spool_files") == 2, "the spool is seen to grow"
        )
    finally:
        stop.set()
        collecting.join(60)
        server.over.set()  # type: ignore[attr-defined]
        server.shutdown()
        server.server_close()
    sending.join(60)
    assert not sending.is_alive()
