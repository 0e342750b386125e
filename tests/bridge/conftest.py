"""A bridge between the shared servers."""

from collections.abc import Callable

import pytest

from tests.servers import Program, RedisProcess, TritonProcess


@pytest.fixture
def bridge(
    redis_server: RedisProcess, triton: TritonProcess, program: Callable[..., Program]
) -> Callable[..., Program]:
    def start(**settings: object) -> Program:
        given = {"redis_url": redis_server.url, "triton_url": triton.url, "claim_idle_s": 1, **settings}
        return program("bridge", **given)

    return start
