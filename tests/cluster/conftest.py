"""Several Redis servers that are one to the stream."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.redis import Cluster, Watched


@pytest.fixture
def watched(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Watched]:
    one = Watched(tmp_path / "watched", *getattr(request, "param", ()))
    yield one
    one.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    one = Cluster(tmp_path / "cluster")
    yield one
    one.close()
