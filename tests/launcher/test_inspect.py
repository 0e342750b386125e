"""`icestream inspect` on files."""

import shlex
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from icestream.detector import nominal_icecube86
from icestream.sources.kaggle import write_folder
from icestream.sources.simulation.simulator import simulated_events
from tests.waiting import ROOT


def inspect(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "launcher", "inspect", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_what_is_in_files_is_said(tmp_path: Path) -> None:
    write_folder(tmp_path, list(islice(simulated_events(nominal_icecube86(), seed=5, run_id=3), 50)))
    path = tmp_path / "train" / "batch_1.parquet"
    rows = pd.read_parquet(path)
    ids = rows.event_id.unique()
    rows.loc[rows.event_id == ids[1], "charge"] = np.nan
    rows.loc[rows.event_id == ids[2], "sensor_id"] = 6000
    rows.to_parquet(path)
    said = inspect(f"kaggle:{tmp_path}")
    assert said.returncode == 0
    assert said.stderr == ""
    for words in (
        "files      train/batch_1.parquet",
        "events     50\n",
        "truth      train_meta.parquet; of 50 of 50 events",
        "rejected   2\n",
        f"1 not_finite, first event {ids[1]}: time and charge must be finite numbers",
        f"1 unknown_sensor, first event {ids[2]}",
        "would have to move to agree",
    ):
        assert words in said.stdout, said.stdout


def test_what_is_no_source_is_said() -> None:
    assert "a source of files is kaggle:DIR or graphnet:FILE" in inspect("/data").stderr
    missing = inspect("graphnet:/nowhere.db")
    assert (missing.returncode, missing.stderr) == (1, "icestream: /nowhere.db: no such file or folder\n")


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    write_folder(tmp_path, list(islice(simulated_events(nominal_icecube86(), seed=5, run_id=3), 50)))
    command = f"{shlex.quote(sys.executable)} -m launcher inspect {shlex.quote(f'kaggle:{tmp_path}')} | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stderr == ""
