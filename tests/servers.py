"""Real servers and processes for the tests, each on ports that are free when it binds them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from redis import AuthenticationError, Redis, RedisError
from tritonclient.utils import InferenceServerException

from icestream.inference.blocking import BlockingClient
from icestream.tensors import pad
from launcher.plan import MLFLOW_ENVIRONMENT, mlflow_command, mlflow_server
from launcher.redis_server import find_redis
from tests.events import event
from tests.models import add_test_models
from tests.waiting import ROOT, wait_until
from tritonserver.process import HOST, answers, start_server, stop_server
from tritonserver.server import ModelControlOptions, TritonServer

# No coverage of servers that are not ours, nor of programs that spend their time in PyTorch's exporter.
UNMEASURED = ["env", "-u", "COVERAGE_PROCESS_CONFIG"]
UP = [sys.executable, "-m", "launcher", "up"]  # `icestream up`


class RedisProcess:
    """A Redis with its data in a folder, so that it can be killed and started again.

    Args:
        acl_file: of its users; `client` is `admin` then, whose password is "admin".
    """

    def __init__(self, folder: Path, acl_file: Path | None = None):
        self._folder, self._server, self._acl_file = folder, find_redis(), acl_file
        self._process, [self.port] = start_server(
            lambda ports: self._server.command(folder, HOST, ports[0], acl_file),
            1,
            ready=lambda ports: _pings(ports[0]),
            log=folder / "redis.log",
            environment={},
        )
        self.url = f"redis://{HOST}:{self.port}"
        user = {"username": "admin", "password": "admin"} if acl_file else {}
        self.client: Any = Redis(host=HOST, port=self.port, protocol=2, **user)

    def start(self) -> None:
        """Start it again after `kill`, on the same port."""
        command = self._server.command(self._folder, HOST, self.port, self._acl_file)
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        wait_until(lambda: _pings(self.port), "Redis answers")

    def kill(self) -> None:
        stop_server(self._process)
        self.client.connection_pool.disconnect()

    def close(self) -> None:
        self.kill()
        self.client.close()


def _pings(port: int) -> bool:
    with Redis(host=HOST, port=port, protocol=2, socket_timeout=2) as client:
        try:
            return bool(client.ping())
        except AuthenticationError:
            return True
        except RedisError:
            return False


class TritonProcess:
    """A Triton that serves the shipped model as `icemix`, and models that misbehave (tests/models.py).

    Args:
        control: it serves the shipped model alone, and loads others when it is told to.
        only: it serves this model alone, and so starts sooner.
        options: of its command line, beside the usual ones.
    """

    def __init__(
        self,
        folder: Path,
        control: ModelControlOptions | None = None,
        only: str | None = None,
        options: Sequence[str] = (),
    ):
        self._options = options
        self._server, self._control = TritonServer(folder), control
        self._server.install_backends()
        self.repository = folder / "models"
        shutil.copytree(ROOT / "model_repository", self.repository)
        if control is None:
            add_test_models(self.repository)
        for other in self.repository.iterdir():
            if only and other.name != only:
                shutil.rmtree(other)
        self._log = folder / "triton.log"
        self._process, [self.http, self.grpc, self.metrics] = start_server(
            self._command, 3, ready=self._ready, log=self._log, environment=self._server.environment()
        )
        self.url = f"{HOST}:{self.grpc}"

    def _command(self, ports: Sequence[int]) -> list[str]:
        command = self._server.command(
            self.repository, HOST, http=ports[0], grpc=ports[1], metrics=ports[2], control=self._control
        )
        return [*UNMEASURED, *command, *self._options]

    def _ready(self, ports: Sequence[int]) -> bool:
        return answers(f"http://{HOST}:{ports[0]}/v2/health/ready")

    def start(self) -> None:
        """Start it again after `kill`, on the same ports.

        Its Python backend ends it now and then with a boost lock_exception while it starts, and after it has hung. Then it is
        started once more, as a supervisor would.
        """
        for _ in range(5):
            with open(self._log, "ab") as log:
                self._process = subprocess.Popen(
                    self._command((self.http, self.grpc, self.metrics)),
                    env={**os.environ, **self._server.environment()},
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            if self._works():
                return
            self.kill()
        raise AssertionError(f"Triton ends while it starts: {self._log}")

    def revive(self) -> None:
        """Start it again if it has ended by itself."""
        if not self.alive:
            self.kill()
            self.start()

    def _works(self) -> bool:
        """Whether it answers; False if it has ended."""
        ports = (self.http, self.grpc, self.metrics)
        wait_until(lambda: self._ready(ports) or not self.alive, "Triton is ready, or has ended", 120)
        with suppress(InferenceServerException), BlockingClient(self.url, "icemix") as client:
            client.outputs(pad([event(1)], 32))
        return self.alive

    def metric(self, name: str, model: str) -> float:
        """A counter of Triton's own metrics."""
        with urllib.request.urlopen(f"http://{HOST}:{self.metrics}/metrics") as reply:
            lines = reply.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f'{name}{{model="{model}"'))

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        stop_server(self._process)

    def pause(self) -> None:
        """Let it hang, until `resume`."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.killpg(self._process.pid, signal.SIGCONT)
        if not self._works():
            self.revive()

    @property
    def process_group(self) -> int:
        return self._process.pid

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


class MlflowProcess:
    """An MLflow server with an empty store."""

    def __init__(self, folder: Path):
        self._folder, self._log = folder, folder / "mlflow.log"
        self._process, [self._port] = start_server(
            self._command, 1, ready=self._ready, log=self._log, environment=MLFLOW_ENVIRONMENT
        )
        self.url = f"http://{HOST}:{self._port}"

    def _command(self, ports: Sequence[int]) -> list[str]:
        return [*UNMEASURED, *mlflow_server(mlflow_command(), self._folder, ports[0])]

    def _ready(self, ports: Sequence[int]) -> bool:
        return answers(f"http://{HOST}:{ports[0]}/api/2.0/mlflow/experiments/get?experiment_id=0")

    @property
    def process_group(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        stop_server(self._process)

    def start(self) -> None:
        """Start it again after `kill`, on the same port."""
        with open(self._log, "ab") as log:
            environment = {**os.environ, **MLFLOW_ENVIRONMENT}
            command = self._command([self._port])
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def close(self) -> None:
        self.kill()


class Program:
    """One of our processes, with its log and its metrics. It binds any free port and says in its log which.

    Args:
        variables: of its environment, beside its settings.
    """

    def __init__(
        self, module: str, folder: Path, variables: Mapping[str, str] = MappingProxyType({}), **settings: object
    ):
        given = {"metrics_port": 0, **settings}
        environment = {f"ICESTREAM_{module.upper()}_{name.upper()}": str(value) for name, value in given.items()}
        number = len(list(folder.glob(f"{module}-*.log")))
        self._log_path = folder / f"{module}-{number}.log"
        with open(self._log_path, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module],
                env={**os.environ, **environment, **variables},
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )

    @property
    def log(self) -> str:
        return self._log_path.read_text()

    def said(self, event: str, key: str) -> Any:
        """A value of the first message with this text; waits for it."""
        pattern = re.compile(rf'^{{.*"event": "{re.escape(event)}".*}}$', re.MULTILINE)

        def find() -> Any:
            if found := pattern.search(self.log):
                return json.loads(found[0])
            assert self.process.poll() is None, self.log
            return None

        return wait_until(find, f"the process says {event!r}")[key]

    @property
    def port(self) -> int:
        """The port of /metrics."""
        return int(self.said("serving /metrics", "port"))

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels; 0 while the process does not answer."""
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.port}/metrics", timeout=2) as reply:
                lines = reply.read().decode().splitlines()
        except OSError:
            return 0.0
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in lines
            if line.split("{")[0].split(" ")[0] == name and all(part in line for part in wanted)
        )

    def stop(self, within_s: float = 30) -> int:
        """SIGTERM; returns the exit status."""
        self.process.terminate()
        return self.process.wait(within_s)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """The end of a test: SIGTERM, so that its coverage is written, and SIGKILL if it does not end."""
        self.process.terminate()
        try:
            self.process.wait(3)
        except subprocess.TimeoutExpired:
            self.kill()


class Display:
    """A running display."""

    def __init__(self, folder: Path, port: int = 0, **settings: object):
        self.process = Program("display", folder, **{"port": port, "requests_per_s": 10_000, **settings})
        self.url = self.process.said("serving", "address")
        self.port = int(self.url.rsplit(":", 1)[1])
        wait_until(lambda: answers(f"{self.url}/health"), "the display answers")

    def ask(
        self, path: str, body: object = None, headers: dict[str, str] | None = None, method: str | None = None
    ) -> tuple[int, Any, Any]:
        """Status, JSON and headers of an answer; a body that is no bytes is sent as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        given = {"Content-Type": "application/json", **(headers or {})}
        request = urllib.request.Request(self.url + path, data, given, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer), answer.headers
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error), error.headers
