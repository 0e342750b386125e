"""The recorder on a real Redis and a real MLflow: everything recorded once, whatever is away or dies."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from prometheus_client import CollectorRegistry
from redis import ConnectionError as RedisAway

from icestream import wire
from icestream.results.table import SCHEMA, table
from icestream.streams import keys
from icestream.streams.connection import connect
from icestream.streams.publisher import Publisher
from icestream.streams.results import GroupReader
from launcher.report import Counts, recorded, report
from recorder.collector import Collector
from recorder.metrics import RecorderMetrics
from recorder.reference import SHIPPED, describe
from recorder.spool import Spool, SpoolInUse
from tests.events import made_result, truth
from tests.servers import Program, RedisProcess
from tests.waiting import wait_until

Start = Callable[..., Program]


def put_results(redis: Any, *numbers: int, known: bool = True) -> None:
    """Results as a bridge stores them, their truths before them."""
    for number in numbers:
        if known:
            redis.xadd(keys.TRUTH, {wire.FIELD: wire.TRUTH.encode(truth(7, number, 1.0, 0.5, "cascade"))})
        redis.xadd(keys.DIRECTIONS, {wire.FIELD: wire.RESULT.encode(made_result(number))})


def spooled(folder: Path) -> list[int]:
    """The event_ids on disk."""
    return [
        event_id
        for path in sorted(folder.glob("*/window-*.parquet"))
        for event_id in pq.read_table(path)["event_id"].to_pylist()
    ]


SPOOLS: dict[Path, Spool] = {}


def spool(folder: Path) -> Spool:
    """A spool; that of an earlier recorder in the test is left as a crash leaves it."""
    if folder in SPOOLS:
        SPOOLS[folder].close()
    SPOOLS[folder] = Spool(folder)
    return SPOOLS[folder]


def collector(redis: Any, folder: Path) -> Collector:
    redis.delete(keys.RECORDER)  # the lease of an earlier one has expired
    one = Collector(GroupReader(redis), spool(folder), RecorderMetrics(CollectorRegistry()))
    one.prepare()
    return one


def close_without_acknowledging(one: Collector, redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The window reaches the disk, and Redis goes away before it hears of it."""

    def away(**_: object) -> None:
        raise RedisAway("gone")

    with monkeypatch.context() as broken:
        broken.setattr(redis, "pipeline", away)
        with pytest.raises(RedisAway):
            one.close_window()


def test_results_meet_their_truth_and_leave_the_streams(redis: Any, tmp_path: Path) -> None:
    put_results(redis, 1, 2)
    put_results(redis, 3, known=False)
    one = collector(redis, tmp_path)
    assert one.read(None) == 3
    assert spooled(tmp_path) == []
    one.close_window()
    assert spooled(tmp_path) == [1, 2, 3]
    [path] = tmp_path.glob("*/*.parquet")
    rows = pq.read_table(path)
    assert rows["kind"].to_pylist() == ["cascade", "cascade", None]
    assert rows["opening_angle_deg"].null_count == 1
    assert redis.xlen(keys.TRUTH) == 0
    assert redis.xpending(keys.DIRECTIONS, keys.RECORDER_GROUP)["pending"] == 0


def test_a_crash_between_disk_and_acknowledgement_doubles_nothing(
    redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_results(redis, 1, 2)
    one = collector(redis, tmp_path)
    one.read(None)
    close_without_acknowledging(one, redis, monkeypatch)
    assert spooled(tmp_path) == [1, 2]
    put_results(redis, 3)
    second = collector(redis, tmp_path)
    second.read(None)
    second.close_window()
    assert spooled(tmp_path) == [1, 2, 3]
    assert redis.xpending(keys.DIRECTIONS, keys.RECORDER_GROUP)["pending"] == 0


def test_a_failed_acknowledgement_is_made_up_for_by_the_same_recorder(
    redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_results(redis, 1, 2)
    one = collector(redis, tmp_path)
    one.read(None)
    close_without_acknowledging(one, redis, monkeypatch)
    put_results(redis, 3)
    one.read(None)
    one.close_window()
    assert sorted(spooled(tmp_path)) == [1, 2, 3]


def test_a_crash_before_the_disk_loses_nothing(redis: Any, tmp_path: Path) -> None:
    put_results(redis, 1, 2)
    collector(redis, tmp_path).read(None)
    second = collector(redis, tmp_path)
    second.read(None)
    second.close_window()
    assert spooled(tmp_path) == [1, 2]


def test_a_delivery_whose_reply_was_lost_is_taken_up(redis: Any, tmp_path: Path) -> None:
    put_results(redis, 1, 2)
    one = collector(redis, tmp_path)
    for stream in (keys.DIRECTIONS, keys.TRUTH):  # what Redis does for a reader that never sees the answer
        redis.xreadgroup(keys.RECORDER_GROUP, "recorder", {stream: ">"})
    put_results(redis, 3)
    one.prepare()
    one.read(None)
    one.close_window()
    assert spooled(tmp_path) == [1, 2, 3]
    assert redis.xpending(keys.DIRECTIONS, keys.RECORDER_GROUP)["pending"] == 0
    assert redis.xlen(keys.TRUTH) == 0


def test_a_kill_while_uploaded_windows_are_deleted_doubles_nothing(redis: Any, tmp_path: Path) -> None:
    one = collector(redis, tmp_path)
    for number in (1, 2, 3):
        put_results(redis, number)
        one.read(None)
        one.close_window()
    again = spool(tmp_path)
    [start] = [start for start in again.runs() if start.windows()]
    kept = start.windows()[1].path.read_bytes()
    path = start.windows()[1].path
    again.forget(start, start.windows())
    path.write_bytes(kept)  # as if it had not come so far
    assert start.windows() == []
    start.remove()
    assert not start.folder.exists()


@pytest.mark.parametrize("uploaded", [False, True])
def test_results_that_are_stored_again_are_recorded_once(redis: Any, tmp_path: Path, uploaded: bool) -> None:
    """As after a loss of Redis's last writes: the same events, other entries, and another recorder."""
    put_results(redis, 1, 2)
    one = collector(redis, tmp_path)
    one.read(None)
    put_results(redis, 2)
    one.read(None)
    one.close_window()
    if uploaded:
        [start] = [start for start in SPOOLS[tmp_path].runs() if start.windows()]
        SPOOLS[tmp_path].forget(start, start.windows())
    redis.delete(keys.DIRECTIONS, keys.TRUTH)
    put_results(redis, 1, 2, 3)
    second = collector(redis, tmp_path)
    second.read(None)
    second.close_window()
    assert spooled(tmp_path) == ([3] if uploaded else [1, 2, 3])
    assert redis.xpending(keys.DIRECTIONS, keys.RECORDER_GROUP)["pending"] == 0
    assert redis.xlen(keys.TRUTH) == 0


def test_a_spool_has_one_recorder(tmp_path: Path) -> None:
    first = Spool(tmp_path)
    with pytest.raises(SpoolInUse, match="another recorder uses"):
        Spool(tmp_path)
    first.close()
    Spool(tmp_path).close()


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


def test_a_recorder_with_nothing_to_do_is_seen_to_live(redis: Any, tmp_path: Path) -> None:
    one = collector(redis, tmp_path)
    put_results(redis, 1)
    assert one.read(100) == 1

    def idle_ms() -> int:
        [consumer] = redis.xinfo_consumers(keys.DIRECTIONS, keys.RECORDER_GROUP)
        return int(consumer["idle"])

    idle = wait_until(lambda: idle_ms() > 200 and idle_ms(), "some idle time")
    assert one.read(None) == 0
    assert idle_ms() < idle


def test_bytes_that_are_no_result_are_passed_over(redis: Any, tmp_path: Path) -> None:
    redis.xadd(keys.DIRECTIONS, {wire.FIELD: b"\xc1"})
    redis.xadd(keys.TRUTH, {wire.FIELD: b"\xc1"})
    put_results(redis, 1)
    one = collector(redis, tmp_path)
    one.read(None)
    one.close_window()
    assert spooled(tmp_path) == [1]
    assert redis.xlen(keys.TRUTH) == 0


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
        redis.xadd(keys.DIRECTIONS, {wire.FIELD: wire.RESULT.encode(result)})
        wait_until(lambda: process.metric("icestream_recorder_uploads_total", outcome="done") > number, "an upload")  # noqa: B023
    assert process.stop(60) == 0
    [run] = runs(mlflow_url, "models")
    assert models_since(run) == ["icemix 1 c.safetensors sha256:0", "icemix 2 c.safetensors sha256:0"]


def test_a_run_has_an_end_and_its_results_are_kept_as_long_as_wanted(
    redis: Any, mlflow_url: str, recorder: Start
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

    process = recorder(experiment="days", window_s=0.2, keep_days=1e-9)
    wait_until(lambda: all("icestream.results_deleted" in run.data.tags for run in found()), "deletion")
    assert process.stop(60) == 0
    for run in found():
        assert run.data.metrics["events"] == 1
        assert {artifact.path for artifact in client.list_artifacts(run.info.run_id)} == {"latest"}


def test_a_run_is_linked_to_the_registered_version_that_made_it(redis: Any, mlflow_url: str, recorder: Start) -> None:
    client = MlflowClient(mlflow_url)
    logged = client.create_logged_model(client.create_experiment("models-of-a-test"), "icemix")
    client.finalize_logged_model(logged.model_id, "READY")
    if not client.search_registered_models("name = 'icemix'"):
        client.create_registered_model("icemix")
    versions = [
        client.create_model_version(
            "icemix", f"models:/{logged.model_id}", tags={"checkpoint": checkpoint}, model_id=logged.model_id
        )
        for checkpoint in ("another sha256:123", "c.safetensors sha256:0")
    ]
    process = recorder(session="linked", window_s=0.5)
    put_results(redis, *range(5))
    wait_until(lambda: process.metric("icestream_recorder_uploads_total") > 0, "an upload")
    assert process.stop(60) == 0
    [run] = runs(mlflow_url, "linked")
    assert run.data.tags["model.registered"] == f"models:/icemix/{versions[1].version}"
    assert [one.model_id for one in client.get_run(run.info.run_id).inputs.model_inputs] == [logged.model_id]


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


def test_a_run_that_a_crash_has_left_keeps_its_parameters(
    redis: Any, mlflow_url: str, recorder: Start, tmp_path: Path
) -> None:
    process = recorder(session="s3", window_s=0.2)
    put_results(redis, 1)
    wait_until(lambda: process.metric("icestream_recorder_uploads_total") > 0, "an upload")
    process.kill()
    again = recorder(session="s3", window_s=0.3)  # another setting, and results of another run and model
    other = made_result(2, run_id=9, model_version="2")
    redis.xadd(keys.DIRECTIONS, {wire.FIELD: wire.RESULT.encode(other)})
    wait_until(lambda: len(recorded(mlflow_url, "s3", tmp_path)[0]) == 1, "the results of the first")
    assert again.stop(60) == 0
    rows, _ = recorded(mlflow_url, "s3", tmp_path)
    assert sorted(rows["event_id"].to_pylist()) == [1, 2]
    found = {run.data.params["run_id"]: run.data.params["window_s"] for run in runs(mlflow_url, "s3")}
    assert found == {"7": "0.2", "9": "0.3"}


def test_the_report_counts_what_is_missing_and_what_is_double() -> None:
    rows = table([made_result(1), made_result(2), made_result(2)], [truth(7, 1, 0.0, 0.0), None, None])
    figures = report(Counts(emitted=6, reconstructed=2, rejected=1, left_in_stream=1), rows, max_pulses=128)
    assert (figures["reconstructed"], figures["lost"], figures["duplicated"]) == (2, 2, 0)
    assert Counts(emitted=6, reconstructed=5, rejected=1, left_in_stream=1).duplicated == 1
    repeated = Counts(emitted=120, reconstructed=60, repeated=60, rejected=0, left_in_stream=0)
    assert (repeated.lost, repeated.duplicated) == (0, 0)
    emptied = Counts(emitted=200, forgotten=150, reconstructed=50, rejected=0, left_in_stream=0)
    assert (emptied.lost, emptied.duplicated) == (0, 0)
    assert figures["latency_seconds"]["p50"] == pytest.approx(0.004)
    assert figures["opening_angle_deg"]["mean"] == pytest.approx(36.87, abs=0.01)
    assert figures["padding_waste"] == pytest.approx(1 - 20 / 32)
    assert figures["mean_batch_size"] == 3  # all sent at the same time


def test_the_report_of_nothing_is_empty_but_whole() -> None:
    figures = report(Counts(emitted=0, reconstructed=0, rejected=0, left_in_stream=0), SCHEMA.empty_table(), 128)
    assert figures["latency_seconds"] is figures["opening_angle_deg"] is figures["score_radians"] is None
    assert pa.table({}).num_rows == figures["reconstructed"] == figures["lost"] == 0


def test_a_half_written_window_is_not_read(tmp_path: Path) -> None:
    (spool(tmp_path).current.folder / "window-00000001.parquet.part").write_bytes(os.urandom(100))
    assert spool(tmp_path).size() == (0, 0)
    assert list(tmp_path.glob("*/*.part")) == []


def test_a_reference_made_of_results_is_what_the_histograms_show_of_them(tmp_path: Path) -> None:
    rows = table(
        [made_result(number, kappa=kappa) for number, kappa in enumerate((0.05, 1.0, 1.1, 50, 5000))],
        [truth(7, 0, 0.0, 0.0), *4 * [None]],
    )
    (tmp_path / "reference.json").write_text(describe(rows))
    registry = CollectorRegistry()
    metrics = RecorderMetrics(registry, tmp_path / "reference.json")
    metrics.spooled(rows)
    buckets = {"now": {}, "reference": {}}
    for name in ("kappa", "cos_zenith", "azimuth_degrees", "pulses", "opening_angle_degrees"):
        for family in registry.collect():
            for sample in family.samples:
                labels = {key: value for key, value in sample.labels.items() if key != "by"}
                if sample.labels.get("by") != "linefit" and sample.name.endswith("_bucket"):
                    if sample.name == f"icestream_recorder_{name}_bucket":
                        buckets["now"][name, labels["le"]] = sample.value
                    if sample.name == f"icestream_recorder_reference_{name}_bucket":
                        buckets["reference"][name, labels["le"]] = sample.value
    assert buckets["now"] == buckets["reference"]
    assert buckets["now"]["kappa", "1.0"] == 2
    assert buckets["now"]["kappa", "+Inf"] == 5
    assert buckets["now"]["opening_angle_degrees", "+Inf"] == 1


def test_a_reference_of_other_buckets_is_refused(tmp_path: Path) -> None:
    changed = json.loads(SHIPPED.read_text())
    changed["kappa"]["edges"][0] = 0.2
    (tmp_path / "reference.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="has other buckets than this version: make it again"):
        RecorderMetrics(CollectorRegistry(), tmp_path / "reference.json")
