"""Simulated events, as they are in files."""

from itertools import islice
from pathlib import Path

import pandas as pd
import pytest

from icestream.detector import nominal_icecube86
from icestream.event import Event
from icestream.sources.kaggle import write_folder
from icestream.sources.simulation.simulator import simulated_events
from icestream.truth import Truth


@pytest.fixture(scope="module")
def simulated() -> list[tuple[Event, Truth]]:
    return list(islice(simulated_events(nominal_icecube86(), seed=5, run_id=3), 60))


@pytest.fixture
def rows(tmp_path: Path, simulated: list[tuple[Event, Truth]]) -> pd.DataFrame:
    """The pulses of all simulated events, as they are in a file."""
    write_folder(tmp_path / "made", simulated)
    return pd.read_parquet(tmp_path / "made" / "train" / "batch_1.parquet")
