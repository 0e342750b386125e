"""A display as a process, beside a real Redis and a real Triton."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.status import answers
from tests.conftest import HOST, Program, RedisProcess, TritonProcess, free_port, wait_until


class Display:
    """A running display."""

    def __init__(self, folder: Path, port: int | None = None, **settings: object):
        self.port = port or free_port()
        self.process = Program("display", folder, **{"port": self.port, "requests_per_s": 10_000, **settings})
        self.url = f"http://{HOST}:{self.port}"
        wait_until(lambda: answers(f"{self.url}/health"), "the display answers")

    def ask(
        self, path: str, body: object = None, headers: dict[str, str] | None = None, method: str | None = None
    ) -> tuple[int, Any, Any]:
        """Status, JSON and headers of an answer; a body that is no bytes is sent as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers or {}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer), answer.headers
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error), error.headers


@pytest.fixture
def start(tmp_path: Path, redis_server: RedisProcess, triton: TritonProcess) -> Iterator[Callable[..., Display]]:
    """Starts displays."""
    started: list[Display] = []

    def run(**settings: object) -> Display:
        given = {"redis_url": redis_server.url, "triton_url": triton.url, **settings}
        started.append(Display(tmp_path, **given))
        return started[-1]

    yield run
    for one in started:
        one.process.kill()


@pytest.fixture(scope="module")
def display(
    tmp_path_factory: pytest.TempPathFactory, shared_redis: RedisProcess, triton: TritonProcess
) -> Iterator[Display]:
    """One for all tests of a file; its Redis is not emptied between them."""
    shared_redis.client.flushall()
    one = Display(tmp_path_factory.mktemp("display"), redis_url=shared_redis.url, triton_url=triton.url)
    yield one
    one.process.kill()
