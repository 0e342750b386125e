"""`icestream send` against a running display."""

import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from icestream.detector import nominal_icecube86
from icestream.direction import opening_angle, to_vector
from icestream.sources.kaggle import write_folder
from icestream.sources.simulation.simulator import simulated_events
from tests.display.test_rest import GOOD
from tests.servers import Display
from tritonserver.process import HOST


def send(*words: object, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "launcher", "send", *map(str, words)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_file_becomes_a_table_of_directions(display: Display, tmp_path: Path, suffix: str) -> None:
    pairs = list(islice(simulated_events(nominal_icecube86(), 11, 0), 300))
    write_folder(tmp_path, pairs)
    done = send(next(tmp_path.glob("train/*.parquet")), "--url", display.url, "--output", tmp_path / f"out{suffix}")
    assert (done.returncode, done.stderr) == (0, "")
    table: pa.Table = (pyarrow.csv.read_csv if suffix == ".csv" else pq.read_table)(tmp_path / f"out{suffix}")
    assert table["event_id"].to_pylist() == [event.event_id for event, _ in pairs]
    assert table["error"].null_count == 300
    found = to_vector(table["azimuth"].to_numpy(), table["zenith"].to_numpy())
    truth = to_vector([truth.azimuth for _, truth in pairs], [truth.zenith for _, truth in pairs])
    assert np.degrees(np.median(opening_angle(found, truth))) < 25


def test_a_host_that_needs_no_proxy_is_asked_without(
    display: Display, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path, islice(simulated_events(nominal_icecube86(), 11, 0), 3))
    for name, value in (("http_proxy", "http://127.0.0.1:9"), ("NO_PROXY", "localhost")):
        monkeypatch.setenv(name, value)
    done = send(next(tmp_path.glob("train/*.parquet")), "--url", display.url.replace(HOST, "localhost"))
    assert (done.returncode, done.stderr) == (0, "")


def test_json_lines_are_answered_line_by_line_and_a_bad_one_says_why(display: Display) -> None:
    bad = GOOD | {"sensor_id": [1, 2, 9999], "event_id": 7}
    odd = [
        {"sensor_id": 5},
        GOOD | {"charge_pe": [1, float("nan"), 1]},
        GOOD | {"event_id": None},
        GOOD | {"event_id": 1e30},
    ]
    lines = "\n".join(json.dumps(one) for one in (GOOD, bad, GOOD, *odd))
    done = send("-", "--url", display.url, stdin=lines + "\n")
    assert done.returncode == 0
    rows = pyarrow.csv.read_csv(pa.py_buffer(done.stdout.encode())).to_pylist()
    assert [row["event_id"] for row in rows] == [0, 7, 2, 3, 4, 5, 6]
    assert [not row["error"] for row in rows] == [True, False, True, False, False, True, False]
    assert rows[1]["error"].startswith("unknown_sensor: ")
    assert rows[1]["azimuth"] is None
    assert rows[0]["zenith"] == rows[2]["zenith"]
    assert "4 events could not be reconstructed" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["/nowhere.parquet"], "no such file or folder"),
        (["-", "--output", "table.xlsx"], "neither .csv nor .parquet"),
        (["-", "--token-file", "/nowhere"], "/nowhere: No such file"),
    ],
)
def test_a_slip_is_one_sentence(words: list[str], message: str) -> None:
    done = send(*words, stdin="")
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_no_display_is_named_with_its_cure() -> None:
    done = send("-", "--url", f"http://{HOST}:1", stdin=json.dumps(GOOD))
    assert done.returncode == 1
    assert "does not answer" in done.stderr
    assert "start `icestream up`, or give another --url" in done.stderr
    assert send("-", stdin="{").stderr.startswith("icestream: line 1 is no JSON")
    assert "does not answer" in send("-", "--url", "localhost", stdin=json.dumps(GOOD)).stderr


def test_what_is_answered_is_kept_whatever_happens_then(display: Display, tmp_path: Path) -> None:
    """The second request is more than a body may be."""
    lines = [json.dumps(GOOD | {"event_id": number}) for number in range(256)] + [
        json.dumps(GOOD | {"colour": "x" * 40 * 2**20})
    ]
    done = send("-", "--url", display.url, "--output", tmp_path / "out.csv", stdin="\n".join(lines))
    assert done.returncode == 1
    assert "the answers to 256 events before are written" in done.stderr
    assert pyarrow.csv.read_csv(tmp_path / "out.csv")["event_id"].to_pylist() == list(range(256))
