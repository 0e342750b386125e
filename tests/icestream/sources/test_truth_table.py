"""The truth, in the files that people have."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icestream.event import Event
from icestream.sources.kaggle import open_folder, write_folder
from icestream.sources.source import SourceError
from icestream.truth import Truth


def test_damaged_truth_and_words_for_numbers_are_named(tmp_path: Path, simulated: list[tuple[Event, Truth]]) -> None:
    write_folder(tmp_path, simulated)
    (tmp_path / "train_meta.parquet").write_bytes(b"no parquet")
    with pytest.raises(SourceError, match=r"train_meta.parquet: not a readable"):
        open_folder(tmp_path)
    (tmp_path / "train_meta.parquet").unlink()
    words = {"event_id": [1], "sensor_id": ["five"], "time": [1], "charge": [1.0], "auxiliary": [True]}
    pq.write_table(pa.table(words), tmp_path / "train" / "batch_1.parquet")
    with pytest.raises(SourceError, match="column sensor_id is string, no numbers"):
        list(open_folder(tmp_path).events(1))


def moved_to_authors_layout(folder: Path) -> Path:
    meta = pd.read_parquet(folder / "train_meta.parquet")
    (folder / "train_meta").mkdir()
    meta[:30].to_parquet(folder / "train_meta" / "train_meta_1.parquet")
    meta[30:].to_parquet(folder / "train_meta" / "train_meta_2.parquet")
    (folder / "train_meta.parquet").unlink()
    return folder


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "as shipped": lambda folder: folder,
    "the authors'": moved_to_authors_layout,
    "the folder train": lambda folder: folder / "train",
    "the authors' folder train": lambda folder: moved_to_authors_layout(folder) / "train",
    "all in one": lambda folder: shutil.move(folder / "train_meta.parquet", folder / "train" / "meta.parquet").parent,
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_truth_is_found_where_people_have_it(
    tmp_path: Path, simulated: list[tuple[Event, Truth]], name: str
) -> None:
    write_folder(tmp_path, simulated)
    folder = open_folder(LAYOUTS[name](tmp_path))
    assert "meta" in folder.truth
    assert [truth and truth.azimuth for _, truth in folder.events(1)] == [truth.azimuth for _, truth in simulated]


WITHOUT: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "a test set": (
        lambda meta: meta.drop(columns=["azimuth", "zenith"]),
        "train_meta.parquet has no azimuth and zenith",
    ),
    "other names": (lambda meta: meta.rename(columns={"azimuth": "phi"}), "train_meta.parquet has no azimuth"),
    "degrees": (lambda meta: meta.assign(azimuth=np.degrees(meta.azimuth)), "radians from 0 to 6.28 are expected"),
    "no rows": (lambda meta: meta[:0], "train_meta.parquet has no"),
    "empty angles": (lambda meta: meta.assign(azimuth=np.nan), "train_meta.parquet has no azimuth"),
    "other events": (lambda meta: meta.assign(event_id=-1 - meta.event_id), "has none of these events"),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_why_there_is_no_truth_is_said(tmp_path: Path, simulated: list[tuple[Event, Truth]], name: str) -> None:
    write_folder(tmp_path, simulated)
    change, words = WITHOUT[name]
    change(pd.read_parquet(tmp_path / "train_meta.parquet")).to_parquet(tmp_path / "train_meta.parquet")
    folder = open_folder(tmp_path)
    assert folder.truth.startswith("not known: ")
    assert words in folder.truth
    assert all(truth is None for _, truth in folder.events(1))


def test_no_meta_file_is_said(tmp_path: Path, simulated: list[tuple[Event, Truth]]) -> None:
    write_folder(tmp_path, simulated)
    (tmp_path / "train_meta.parquet").unlink()
    assert open_folder(tmp_path).truth == "not known: there is no file of it beside the pulses"


def test_two_truths_of_one_event_are_refused(tmp_path: Path, simulated: list[tuple[Event, Truth]]) -> None:
    write_folder(tmp_path, simulated)
    meta = pd.read_parquet(tmp_path / "train_meta.parquet")
    meta.to_parquet(tmp_path / "train_meta_copy.parquet")
    assert all(truth is not None for _, truth in open_folder(tmp_path).events(1))
    meta.loc[7, "azimuth"] = (meta.azimuth[7] + 1) % 6
    meta.to_parquet(tmp_path / "train_meta_old.parquet")
    with pytest.raises(SourceError, match=r"say different truths of event \d+: take one of them away"):
        list(open_folder(tmp_path).events(1))


def test_the_truth_is_found_above_a_folder_that_is_a_link(tmp_path: Path, simulated: list[tuple[Event, Truth]]) -> None:
    write_folder(tmp_path / "made", simulated)
    (tmp_path / "made" / "train").rename(tmp_path / "elsewhere")
    (tmp_path / "made" / "train").symlink_to(tmp_path / "elsewhere")
    files = open_folder(tmp_path / "made" / "train")
    assert [truth and truth.azimuth for _, truth in files.events(1)] == [truth.azimuth for _, truth in simulated]
