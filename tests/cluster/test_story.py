"""Chapters 3 and 4 of the story on a Redis Cluster of three primaries: nothing but the address differs."""

from typing import Any

import pytest

from icestream.streams.connection import connect
from tests.cluster.redis import Cluster
from tests.story.test_3_through_the_stream import (
    test_an_event_goes_in_and_a_direction_comes_out,
    test_what_is_no_event_is_put_aside_with_its_reason,
)
from tests.story.test_4_all_of_it import test_a_hundred_events_from_the_ice_to_mlflow

__all__ = [
    "test_a_hundred_events_from_the_ice_to_mlflow",
    "test_an_event_goes_in_and_a_direction_comes_out",
    "test_what_is_no_event_is_put_aside_with_its_reason",
]
pytestmark = pytest.mark.cluster


@pytest.fixture
def redis_server(cluster: Cluster) -> Cluster:
    return cluster


@pytest.fixture
def redis(redis_server: Cluster) -> Any:
    return connect(redis_server.url)
