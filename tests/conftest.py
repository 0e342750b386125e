"""Real servers for the tests: one Redis, one Triton and one MLflow for the whole run, each test on a clean Redis."""

import dataclasses
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import settings
from redis import Redis

from icestream.detector import nominal_icecube86
from launcher.redis_server import find_redis
from launcher.status import answers
from tritonserver.server import TritonServer

settings.register_profile("icestream", deadline=None)  # speed is for the bench
settings.load_profile("icestream")

ROOT = Path(__file__).parents[1]
DATA = ROOT / "tests" / "data"
HOST = "127.0.0.1"

# A model with the stream's inputs and outputs that answers with its first pulse's sensor, and refuses a charge of 13 as
# invalid and of 17 as a failure: what a broken event does to a batch, made visible.
PICKY_MODEL = """
import numpy as np
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            charge = np.from_dlpack(pb.get_input_tensor_by_name(request, "charge"))
            if (charge == 13).any():
                responses.append(pb.InferenceResponse(error=pb.TritonError("13 is refused", pb.TritonError.INVALID_ARG)))
                continue
            if (charge == 17).any():
                responses.append(pb.InferenceResponse(error=pb.TritonError("17 fails", pb.TritonError.INTERNAL)))
                continue
            direction = np.zeros((len(charge), 3), np.float32)
            direction[:, 2] = 1
            kappa = np.from_dlpack(pb.get_input_tensor_by_name(request, "sensor_id"))[:, :1].astype(np.float32)
            responses.append(pb.InferenceResponse([pb.Tensor.from_dlpack("direction", direction), pb.Tensor.from_dlpack("kappa", kappa), pb.Tensor.from_dlpack("radius", direction)]))
        return responses
"""


def write_swapped(repository: Path) -> None:
    """Models that look like the shipped one and are not: each with a fault that its known answers must show."""
    mirrored = nominal_icecube86()
    mirrored = dataclasses.replace(mirrored, position_m=mirrored.position_m * [-1, 1, 1])
    model = onnx.load(repository / "icemix" / "1" / "model.onnx")
    for fault in ("swapped", "inverted", "elsewhere"):
        shutil.copytree(repository / "icemix", repository / fault)
        config = (repository / fault / "config.pbtxt").read_text()
        (repository / fault / "config.pbtxt").write_text(config.replace('name: "icemix"', f'name: "{fault}"'))
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        nodes = changed.graph.node
        if fault == "swapped":
            for node in nodes:
                node.output[:] = ["unswapped" if name == "direction" else name for name in node.output]
            changed.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 0, 2]), "order"))
            nodes.append(onnx.helper.make_node("Gather", ["unswapped", "order"], ["direction"], axis=1))
        elif fault == "inverted":
            for node in nodes:
                node.input[:] = ["inverse" if name == "auxiliary" else name for name in node.input]
            nodes.insert(0, onnx.helper.make_node("Not", ["auxiliary"], ["inverse"]))
        else:
            for tensor in changed.graph.initializer:
                if list(tensor.dims) == [5160, 3]:
                    values = (mirrored.position_m / 500).astype(np.float32)
                    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        onnx.save(changed, repository / fault / "1" / "model.onnx")


def wait_until(condition: Callable[[], Any], what: str, within_s: float = 30.0) -> Any:
    """Wait for a condition of the running system and return its value."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {within_s} s: {what}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class RedisProcess:
    """A Redis with its data in a folder, so that it can be killed and started again."""

    def __init__(self, folder: Path):
        self.folder, self.port = folder, free_port()
        self.url = f"redis://{HOST}:{self.port}"
        self.client: Any = Redis(host=HOST, port=self.port, protocol=2)
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(find_redis().command(self.folder, HOST, self.port), stdout=subprocess.DEVNULL)
        wait_until(self._answers, "Redis answers")

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except Exception:
            return False

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self.client.connection_pool.disconnect()

    def close(self) -> None:
        self.kill()
        self.client.close()


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


class TritonProcess:
    """A Triton that serves the shipped model as `icemix` and a picky one as `picky`."""

    def __init__(self, folder: Path):
        self._server = TritonServer(folder)
        self._server.lay_out()
        self.repository = folder / "models"
        shutil.copytree(ROOT / "model_repository", self.repository)
        config = (self.repository / "icemix" / "config.pbtxt").read_text()
        (self.repository / "picky" / "1").mkdir(parents=True)
        (self.repository / "picky" / "1" / "model.py").write_text(PICKY_MODEL)
        config = "".join(line for line in config.splitlines(keepends=True) if "self_test" not in line)
        config = config.replace('name: "icemix"', 'name: "picky"').replace(
            'backend: "onnxruntime"', 'backend: "python"'
        )
        (self.repository / "picky" / "config.pbtxt").write_text(config)
        other = config.replace('"picky"', '"other"').replace(
            '{ name: "kappa" data_type: TYPE_FP32 dims: [1] }', '{ name: "kappa" data_type: TYPE_FP32 dims: [2] }'
        )
        shutil.copytree(self.repository / "picky", self.repository / "other")
        (self.repository / "other" / "config.pbtxt").write_text(other)
        write_swapped(self.repository)
        self.http, self.grpc, self.metrics = free_port(), free_port(), free_port()
        self.url = f"{HOST}:{self.grpc}"
        self._log = open(folder / "triton.log", "ab")
        self.start()

    def start(self) -> None:
        command = self._server.command(self.repository, HOST, self.http, self.grpc, self.metrics)
        environment = {**os.environ, **self._server.environment()}
        self._process = subprocess.Popen(
            command, env=environment, stdout=self._log, stderr=self._log, start_new_session=True
        )
        wait_until(lambda: answers(f"http://{HOST}:{self.http}/v2/health/ready"), "Triton is ready", 60)

    def metric(self, name: str, model: str) -> float:
        """A counter of Triton's own metrics."""
        with urllib.request.urlopen(f"http://{HOST}:{self.metrics}/metrics") as reply:
            lines = reply.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f'{name}{{model="{model}"'))

    def kill(self) -> None:
        os.killpg(self._process.pid, 9)
        self._process.wait()

    def kill_backends(self) -> None:
        """Kill the processes in which the server runs its models; it does not notice until it asks them."""
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (
                    b"backend_stub" in (path / "cmdline").read_bytes()
                    and os.getpgid(int(path.name)) == self._process.pid
                ):
                    os.kill(int(path.name), 9)

    def close(self) -> None:
        self.kill()
        self._server.clean_up()
        self._log.close()


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonProcess]:
    process = TritonProcess(tmp_path_factory.mktemp("triton"))
    yield process
    process.close()


@pytest.fixture(scope="session")
def mlflow_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An MLflow server with an empty store."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    wait_until(lambda: answers(f"http://{HOST}:{port}/health"), "MLflow is ready", 90)
    yield f"http://{HOST}:{port}"
    os.killpg(process.pid, 9)
    process.wait()


class Program:
    """One of our processes, with its log and its metrics."""

    def __init__(self, module: str, folder: Path, **settings: object):
        self.port = free_port()
        prefix = {"emitter": "EMITTER", "bridge": "BRIDGE", "recorder": "RECORDER", "display": "DISPLAY"}[module]
        given = {"metrics_port": self.port, **settings}
        environment = {
            **os.environ,
            **{f"ICESTREAM_{prefix}_{name.upper()}": str(value) for name, value in given.items()},
        }
        self._log_path = folder / f"{module}-{self.port}.log"
        with open(self._log_path, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module], env=environment, stdout=log, stderr=log, cwd=ROOT
            )

    @property
    def log(self) -> str:
        return self._log_path.read_text()

    def metric(self, name: str) -> float:
        """The sum of a metric's samples; 0 while the process does not answer."""
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.port}/metrics", timeout=2) as reply:
                lines = reply.read().decode().splitlines()
        except OSError:
            return 0.0
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    def stop(self, within_s: float = 30) -> int:
        """SIGTERM; returns the exit status."""
        self.process.terminate()
        return self.process.wait(within_s)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Starts our processes; kills what a test leaves running."""
    started: list[Program] = []

    def start(module: str, **settings: object) -> Program:
        started.append(Program(module, tmp_path, **settings))
        return started[-1]

    yield start
    for one in started:
        one.kill()


def composer() -> list[str] | None:
    """The command of whatever Docker Compose this machine has."""
    if shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else None
