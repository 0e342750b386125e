"""The recorder on a real Redis: everything recorded once, whatever is away or dies."""

import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prometheus_client import CollectorRegistry
from redis import ConnectionError as RedisAway
from rich.console import Console

from icestream import wire
from icestream.result import pack
from icestream.results.table import SCHEMA, table
from icestream.streams import keys
from icestream.streams.results import RECORD_BYTES, AnotherReader, GroupReader, LeaseLost, Tail
from launcher.report import Counts, is_whole, report
from launcher.view import summary
from recorder.collector import Collector
from recorder.metrics import RecorderMetrics
from recorder.reference import SHIPPED, describe
from tests.events import encoded, made_result, truth
from tests.recorder.streams import SPOOLS, collector, put_results, spooled
from tests.waiting import wait_until


def close_without_acknowledging(one: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """The window reaches the disk, and Redis goes away before it hears of it."""

    def away(*_: object) -> None:
        raise RedisAway("gone")

    with monkeypatch.context() as broken:
        broken.setattr(GroupReader, "acknowledge", away)
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
    close_without_acknowledging(one, monkeypatch)
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
    close_without_acknowledging(one, monkeypatch)
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
    assert list(one.prepare()) == []
    one.read(None)
    one.close_window()
    assert spooled(tmp_path) == [1, 2, 3]
    assert redis.xpending(keys.DIRECTIONS, keys.RECORDER_GROUP)["pending"] == 0
    assert redis.xlen(keys.TRUTH) == 0


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


def test_a_window_counts_only_while_no_other_recorder_reads(redis: Any, tmp_path: Path) -> None:
    """As after a pause of the process that was longer than its lease."""
    put_results(redis, 1, 2)
    one = collector(redis, tmp_path / "one")
    one.read(None)
    second = collector(redis, tmp_path / "second")
    with pytest.raises(AnotherReader):
        one.close_window()
    assert spooled(tmp_path / "one") == []
    second.read(None)
    second.close_window()
    assert spooled(tmp_path / "second") == [1, 2]


def test_a_recorder_that_stalls_drops_what_another_may_have_recorded(redis: Any, tmp_path: Path) -> None:
    put_results(redis, 1, 2)
    one = collector(redis, tmp_path / "one")
    one.read(None)
    second = collector(redis, tmp_path / "second")
    second.read(None)
    second.close_window()
    redis.delete(keys.RECORDER)  # the second has left
    with pytest.raises(LeaseLost):
        one.close_window()
    with pytest.raises(LeaseLost):
        one.read(None)
    one.forget()
    assert list(one.prepare()) == []
    put_results(redis, 3)
    one.read(None)
    one.close_window()
    assert (spooled(tmp_path / "one"), spooled(tmp_path / "second")) == ([3], [1, 2])


def test_a_recorder_makes_room_in_a_full_redis(redis: Any, tmp_path: Path) -> None:
    put_results(redis, *range(30))
    redis.config_set("maxmemory", 1)
    try:
        one = collector(redis, tmp_path)
        one.read(None)
        one.close_window()
    finally:
        redis.config_set("maxmemory", 0)
    assert spooled(tmp_path) == list(range(30))
    assert redis.xpending(keys.DIRECTIONS, keys.RECORDER_GROUP)["pending"] == 0
    assert redis.xlen(keys.TRUTH) == 0


def test_the_truths_of_a_backlog_wait_with_it(redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recorder.collector.KEPT_TRUTHS", 20)
    monkeypatch.setattr("recorder.collector.READ_AT_ONCE", 5)
    now_ns = time.time_ns()

    def store(number: int) -> None:
        redis.xadd(keys.DIRECTIONS, {wire.FIELD: encoded(made_result(number, emitted_ns=now_ns))})

    for number in range(1000, 1050):  # of rejected events: they never get a result
        redis.xadd(keys.TRUTH, {wire.FIELD: wire.encode_truths([truth(7, number, 1.0, 0.5)])})
    for number in range(100):
        redis.xadd(keys.TRUTH, {wire.FIELD: wire.encode_truths([truth(7, number, 1.0, 0.5, "cascade")])})
        store(number)
    one = collector(redis, tmp_path)
    while one.read(None):
        one.close_window()
    kinds = [kind for path in tmp_path.glob("*/window-*") for kind in pq.read_table(path)["kind"].to_pylist()]
    assert kinds == ["cascade"] * 100
    assert redis.xlen(keys.TRUTH) <= 25


@pytest.mark.parametrize("ahead_s", [-3600, 0, 90, 10**9])
def test_a_result_without_truth_costs_no_other_its_own(
    redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead_s: int
) -> None:
    """One of a dead letter that is replayed, or of an emitter whose clock is ahead."""
    monkeypatch.setattr("recorder.collector.KEPT_TRUTHS", 20)
    monkeypatch.setattr("recorder.collector.READ_AT_ONCE", 5)
    now_ns = time.time_ns()
    redis.xadd(keys.DIRECTIONS, {wire.FIELD: encoded(made_result(500, emitted_ns=now_ns + ahead_s * 10**9))})
    put_results(redis, *range(100), emitted_ns=now_ns)
    one = collector(redis, tmp_path)
    while one.read(None):
        one.close_window()
    kinds = [kind for path in tmp_path.glob("*/window-*") for kind in pq.read_table(path)["kind"].to_pylist()]
    assert sorted(kind or "" for kind in kinds) == [""] + ["cascade"] * 100


def test_what_is_read_is_limited_in_bytes(redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icestream.streams.results.READ_BYTES", 3 * RECORD_BYTES)
    one = collector(redis, tmp_path)
    for stream in (keys.DIRECTIONS, keys.TRUTH):
        for _ in range(7):
            redis.xadd(stream, {wire.FIELD: bytes(10 * RECORD_BYTES)})
    put_results(redis, 1)
    assert [one.read(None) for _ in range(4)] == [3, 3, 2, 0]
    one.close_window()
    assert spooled(tmp_path) == [1]
    reader = Tail(redis, keys.DIRECTIONS, 100)
    assert [len(reader.read()) for _ in range(4)] == [3, 3, 2, 0]
    assert reader.read(10) == []


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


def test_the_report_counts_what_is_missing_and_what_is_double() -> None:
    rows = table([pack([made_result(1), made_result(2), made_result(2)])], [truth(7, 1, 0.0, 0.0), None, None])
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


def test_the_report_of_results_that_are_not_recorded_is_not_whole() -> None:
    counts = Counts(emitted=3, reconstructed=2, rejected=0, left_in_stream=1)

    def found(*numbers: int) -> dict[str, Any]:
        results = pack([made_result(number) for number in numbers])
        return report(counts, table([results], [None] * len(numbers)), max_pulses=128)

    assert is_whole(found(1, 2))
    assert not is_whole(found(1))
    assert not is_whole(found(1, 2, 2))
    console = Console(width=200, record=True)
    for numbers, words in (((1,), "only 1 are in MLflow"), ((1, 2, 2), "1 results are in MLflow twice")):
        console.print(summary(found(*numbers) | {"triton_version": "", "redis": ""}))
        said = " ".join(console.export_text().replace("│", " ").split())
        assert words in said
        assert "1 are still in the stream" in said


def test_the_report_of_nothing_is_empty_but_whole() -> None:
    figures = report(Counts(emitted=0, reconstructed=0, rejected=0, left_in_stream=0), SCHEMA.empty_table(), 128)
    assert figures["latency_seconds"] is figures["opening_angle_deg"] is figures["score_radians"] is None
    assert pa.table({}).num_rows == figures["reconstructed"] == figures["lost"] == 0


@pytest.mark.parametrize("together", [1, 7, 40])
def test_no_truth_is_dropped_whose_result_still_waits(
    redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    for name, value in {"READ_AT_ONCE": 5, "KEPT_TRUTHS": 60, "KEPT_TRUTH_ENTRIES": 20, "WINDOW_ROWS": 30}.items():
        monkeypatch.setattr(f"recorder.collector.{name}", value)
    now_ns = time.time_ns()
    for low in range(0, 400, together):
        numbers = range(low, min(low + together, 400))
        redis.xadd(keys.TRUTH, {wire.FIELD: wire.encode_truths([truth(7, number, 1.0, 0.5) for number in numbers])})
        for number in numbers:
            redis.xadd(keys.DIRECTIONS, {wire.FIELD: encoded(made_result(number, emitted_ns=now_ns))})
    one = collector(redis, tmp_path)
    while one.read(None):
        if one.full:
            one.close_window()
    one.close_window()
    assert sorted(spooled(tmp_path)) == list(range(400))
    for path in tmp_path.glob("*/window-0*.parquet"):
        assert pq.read_table(path)["true_zenith"].null_count == 0
    assert redis.xlen(keys.TRUTH) == 0


def test_truths_whose_results_never_come_are_dropped_in_the_end(
    redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"READ_AT_ONCE": 5, "KEPT_TRUTH_ENTRIES": 20}.items():
        monkeypatch.setattr(f"recorder.collector.{name}", value)
    one = collector(redis, tmp_path)
    now_ns = time.time_ns()
    for low in range(0, 300, 3):  # the second event of each entry was rejected
        redis.xadd(
            keys.TRUTH, {wire.FIELD: wire.encode_truths([truth(7, number, 1.0, 0.5) for number in range(low, low + 3)])}
        )
        for number in (low, low + 2):
            redis.xadd(keys.DIRECTIONS, {wire.FIELD: encoded(made_result(number, emitted_ns=now_ns))})
        one.read(None)
        one.close_window()
    assert len(spooled(tmp_path)) == 200
    assert redis.xlen(keys.TRUTH) <= 26


def test_a_reference_made_of_results_is_what_the_histograms_show_of_them(tmp_path: Path) -> None:
    rows = table(
        [pack([made_result(number, kappa=kappa) for number, kappa in enumerate((0.05, 1.0, 1.1, 50, 5000))])],
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
