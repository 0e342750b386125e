"""The spool on disk: what a crash, a full disk or a damaged file leaves."""

import errno
import io
import os
import random
from contextlib import suppress
from pathlib import Path
from threading import Event, Semaphore, Thread
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from prometheus_client import CollectorRegistry

from icestream.result import pack
from icestream.results.table import table
from icestream.service.logs import configure_logs
from icestream.streams import keys
from icestream.streams.results import GroupReader
from recorder.collector import Collector
from recorder.judge import Judge
from recorder.loops import collect
from recorder.metrics import RecorderMetrics
from recorder.spool import RecorderRun, Spool, SpoolInUse
from tests.events import made_result
from tests.recorder.streams import SPOOLS, collector, put_results, spool, spooled
from tests.servers import RedisProcess
from tests.waiting import wait_until


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


def test_a_spool_has_one_recorder(tmp_path: Path) -> None:
    first = Spool(tmp_path)
    with pytest.raises(SpoolInUse, match="another recorder uses"):
        Spool(tmp_path)
    first.close()
    Spool(tmp_path).close()


def header_with_a_slip() -> bytes:
    content = io.BytesIO()
    np.save(content, np.zeros((3, 2), np.int64))
    return content.getvalue().replace(b"}", b"(")


def test_files_of_the_spool_that_are_damaged_or_strange_stop_nothing(redis: Any, tmp_path: Path) -> None:
    put_results(redis, 1, 2)
    one = collector(redis, tmp_path)
    one.read(None)
    one.close_window()
    run = next(run for run in SPOOLS[tmp_path].runs() if run.windows())
    SPOOLS[tmp_path].forget(run, run.windows())
    for damage in (b"", b"\x93NUMPY", b"no array", header_with_a_slip()):
        (tmp_path / "recent.npy").write_bytes(damage)
        (run.folder / "run.json").write_bytes(damage)
        (run.folder / "window-a.parquet").write_bytes(b"of somebody else")
        (tmp_path / "123").write_bytes(b"no folder")
        again = spool(tmp_path)
        assert again.damaged == 1
        assert (run.windows(), run.mlflow_run, run.uploaded) == ([], None, 0)
    put_results(redis, 3)
    last = collector(redis, tmp_path)
    last.read(None)
    last.close_window()
    assert spooled(tmp_path) == [3]


def test_a_half_written_window_is_not_read(tmp_path: Path) -> None:
    (spool(tmp_path).current.folder / "window-00000001.parquet.part").write_bytes(os.urandom(100))
    assert spool(tmp_path).size() == (0, 0)
    assert list(tmp_path.glob("*/*.part")) == []


def with_windows(redis: Any, folder: Path, *numbers: int) -> RecorderRun:
    """A run of the recorder with a window for each of these results."""
    one = collector(redis, folder)
    for number in numbers:
        put_results(redis, number)
        one.read(None)
        one.close_window()
    [run] = [run for run in SPOOLS[folder].runs() if run.windows()]
    return run


@pytest.mark.parametrize("seed", range(20))
def test_a_flipped_bit_costs_its_window_and_nothing_else(redis: Any, tmp_path: Path, seed: int) -> None:
    run = with_windows(redis, tmp_path, 1, 2)
    first, second = run.windows()
    content, chance = bytearray(first.path.read_bytes()), random.Random(seed)
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    first.path.write_bytes(content)
    again = spool(tmp_path)
    assert again.damaged == 1
    assert [window.number for window in run.windows()] == [2]
    found = again.read(second)
    assert found is not None
    assert found.rows["event_id"].to_pylist() == [2]


def test_windows_of_an_earlier_version_are_read_without_a_checksum(redis: Any, tmp_path: Path) -> None:
    run = with_windows(redis, tmp_path, 1)
    [window] = run.windows()
    window.path.rename(run.folder / "window-00000001.parquet")
    assert spool(tmp_path).damaged == 0
    [window] = run.windows()
    assert (found := SPOOLS[tmp_path].read(window)) is not None
    assert found.rows["event_id"].to_pylist() == [1]
    table = pq.read_table(window.path).replace_schema_metadata({"since_ns": "no number"})
    pq.write_table(table, window.path)
    assert spool(tmp_path).damaged == 1


@pytest.mark.parametrize("killed_at", range(5))
def test_a_kill_while_a_folder_is_removed_uploads_nothing_again(
    redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    run = with_windows(redis, tmp_path, 1, 2, 3)
    run.uploaded = 3  # killed before the windows were deleted
    left, unlink = iter(range(killed_at)), Path.unlink

    def unlink_some(path: Path, missing_ok: bool = False) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    with monkeypatch.context() as broken:
        broken.setattr(Path, "unlink", unlink_some)
        with suppress(KeyboardInterrupt):
            run.remove()
    assert [run for run in spool(tmp_path).runs() if run.windows()] == []


def test_what_was_recorded_is_remembered_in_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recorder.spool.KEPT_EVENTS", 50)
    one = spool(tmp_path)
    for low in range(0, 100, 10):
        one.write(table([pack([made_result(number) for number in range(low, low + 10)])], [None] * 10))
    assert [number for number in range(100) if one.has((7, number))] == list(range(50, 100))


def test_what_is_left_of_an_earlier_recorder_is_recorded_in_windows(
    redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be more than this one's memory holds."""
    for name, value in {"READ_AT_ONCE": 5, "WINDOW_ROWS": 20}.items():
        monkeypatch.setattr(f"recorder.collector.{name}", value)
    put_results(redis, *range(100))
    collector(redis, tmp_path)
    for stream in (keys.DIRECTIONS, keys.TRUTH):  # to one that was killed
        redis.xreadgroup(keys.RECORDER_GROUP, "recorder", {stream: ">"})
    one = collector(redis, tmp_path)
    one.close_window()
    tables = [pq.read_table(path) for path in sorted(tmp_path.glob("*/window-0*"))]
    assert [found.num_rows for found in tables] == [20] * 5
    assert all(found["true_zenith"].null_count == 0 for found in tables)
    assert redis.xpending(keys.DIRECTIONS, keys.RECORDER_GROUP)["pending"] == 0
    assert redis.xlen(keys.TRUTH) == 0


def test_while_the_disk_is_full_no_more_is_read_than_a_window(
    redis: Any, redis_server: RedisProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"collector.READ_AT_ONCE": 5, "collector.WINDOW_ROWS": 20, "loops.PAUSES_S": (0.01, 0.01)}
    for name, value in sizes.items():
        monkeypatch.setattr(f"recorder.{name}", value)
    put_results(redis, *range(200))
    write, failures, has_room, stop = Spool.write, Semaphore(0), Event(), Event()

    def written(*arguments: Any, **options: Any) -> None:
        if not has_room.is_set():
            failures.release()
            raise OSError(errno.ENOSPC, "No space left on device")
        write(*arguments, **options)

    monkeypatch.setattr(Spool, "write", written)
    metrics, log = RecorderMetrics(CollectorRegistry()), configure_logs("recorder")
    one = Collector(GroupReader(redis), spool(tmp_path), metrics)
    judge = Judge(redis, metrics, log)
    running = Thread(target=collect, args=(one, judge, 60), kwargs={"stop": stop, "metrics": metrics, "log": log})
    running.start()
    try:
        for _ in range(20):
            assert failures.acquire(timeout=60)
        assert redis.xpending(keys.DIRECTIONS, keys.RECORDER_GROUP)["pending"] <= 25
        has_room.set()
        wait_until(lambda: len(spooled(tmp_path)) == 200, "all is recorded")
    finally:
        has_room.set()
        stop.set()
        running.join(60)
    assert sorted(spooled(tmp_path)) == list(range(200))


def test_files_of_others_stay(tmp_path: Path) -> None:
    theirs = [tmp_path / "incoming" / "a.part", tmp_path / "b.part", tmp_path / "12" / "c.part"]
    for path in theirs:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    ours = [
        tmp_path / "recent.npy.part",
        tmp_path / "12" / "run.json.part",
        tmp_path / "12" / "window-00000001-0a0a0a0a.parquet.part",
    ]
    for path in ours:
        path.write_text("half written")
    spool(tmp_path)
    assert [path.exists() for path in theirs] == [True] * 3
    assert [path.exists() for path in ours] == [False] * 3


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), MemoryError()])
def test_an_error_that_passes_damages_no_window(
    redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    run = with_windows(redis, tmp_path, 1)
    [window] = run.windows()

    def failing(path: Path) -> bytes:
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(Path, "read_bytes", failing)
        with pytest.raises(type(error)):
            SPOOLS[tmp_path].read(window)
    assert SPOOLS[tmp_path].read(window) is not None
    assert SPOOLS[tmp_path].damaged == 0
