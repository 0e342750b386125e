"""Real servers for the tests: one Redis, one Triton and one MLflow for each pytest process, started when first needed.

With `pytest -n` every worker is a process of its own. So a test may kill or empty the servers of its worker.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Several pytest workers, each with PyTorch and ONNX Runtime, share the cores: one thread each is faster than threads that wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # of the clients in this process, before they are imported

from tests.servers import Display, MlflowProcess, Program, RedisProcess, TritonProcess
from tests.waiting import ROOT, wait_until
from tritonserver.debian import fetch_debian_package

FETCHED = ROOT / ".venv" / "debian"
PACKAGES = {
    "nginx": "nginx",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "amtool": "prometheus-alertmanager",
    "prometheus-redis-exporter": "prometheus-redis-exporter",
}

settings.register_profile("icestream", deadline=None)  # speed is for the benchmarks
settings.load_profile("icestream")


def pytest_xdist_auto_num_workers() -> int:
    """`-n auto`: one worker more than there are cores, since tests spend much of their time waiting for servers."""
    return len(os.sched_getaffinity(0)) + 1


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    process = RedisProcess(tmp_path_factory.mktemp("redis"))
    yield process
    process.close()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisProcess]:
    """A Redis that a test may kill."""
    process = RedisProcess(tmp_path)
    yield process
    process.close()


@pytest.fixture
def redis_server(shared_redis: RedisProcess) -> RedisProcess:
    """An empty Redis."""
    shared_redis.client.flushall()
    return shared_redis


@pytest.fixture
def redis(redis_server: RedisProcess) -> Any:
    """A client of an empty Redis."""
    return redis_server.client


@pytest.fixture(scope="session")
def shared_triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonProcess]:
    process = TritonProcess(tmp_path_factory.mktemp("triton"))
    yield process
    process.close()


@pytest.fixture
def triton(shared_triton: TritonProcess) -> TritonProcess:
    """A Triton that lives, whatever the test before has done to it."""
    shared_triton.revive()
    return shared_triton


@pytest.fixture(scope="session")
def mlflow_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    process = MlflowProcess(tmp_path_factory.mktemp("mlflow"))
    yield process.url
    process.close()


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Starts our processes; kills what a test leaves running."""
    started: list[Program] = []

    def start(module: str, **settings: object) -> Program:
        started.append(Program(module, tmp_path, **settings))
        return started[-1]

    yield start
    for one in started:
        one.close()


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
        one.process.close()


@pytest.fixture(scope="module")
def display(
    tmp_path_factory: pytest.TempPathFactory, shared_redis: RedisProcess, shared_triton: TritonProcess
) -> Iterator[Display]:
    """One for all tests of a file; its Redis is not emptied between them."""
    shared_redis.client.flushall()
    one = Display(tmp_path_factory.mktemp("display"), redis_url=shared_redis.url, triton_url=shared_triton.url)
    wait_until(lambda: one.ask("/health")[1]["triton"], "Triton has proved its model to the display")
    yield one
    one.process.close()


def composer() -> list[str] | None:
    """The command of whatever Docker Compose this machine has."""
    if shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else None


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """Finds one of these programs: the machine's, or Debian's package unpacked beside the virtual environment."""

    def find(name: str) -> str:
        if found := shutil.which(name):
            return found
        fetched = FETCHED / "usr" / ("sbin" if name == "nginx" else "bin") / name
        if not fetched.exists():
            if shutil.which("apt-get") is None:
                pytest.skip(f"{name} is not installed, and this is no Debian to fetch it from")
            try:
                fetch_debian_package(PACKAGES[name], FETCHED)
            except subprocess.CalledProcessError as error:
                pytest.fail(f"{name} could not be fetched: {error.stderr}")
        return str(fetched)

    return find
