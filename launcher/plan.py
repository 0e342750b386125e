"""What runs, on which ports, with which settings: the services of compose.yaml as processes."""

import json
import os
import shutil
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge.settings import BridgeSettings
from deployer.settings import DeployerSettings
from display.settings import DisplaySettings
from emitter.settings import EmitterSettings
from icestream.inference.model_config import parse_config
from icestream.results.mlflow_names import EXPERIMENT
from icestream.service.settings import problems
from icestream.sources.replay import is_replay, open_files
from icestream.sources.source import SourceError
from launcher.errors import LauncherError
from launcher.ports import ASKED_FOR, Ports
from launcher.redis_server import RedisServer, cut_zeros, find_redis
from launcher.state import RedisUsers, open_state_dir, secret
from launcher.supervisor import Service
from recorder.settings import RecorderSettings
from tritonserver.card import find_card
from tritonserver.process import HOST
from tritonserver.server import ModelControlOptions, TritonServer

PROCESSES = ("emitter", "bridge", "challenger", "recorder", "display", "deployer")
ROOT = Path(__file__).parents[1]
# Job execution is for MLflow's generative AI; it would cost seven processes and 500 MB.
MLFLOW_ENVIRONMENT = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `icestream up`."""

    events: int | None
    rate: str
    source: str
    seed: int
    bridges: int
    state_dir: Path
    report: Path
    model_repository: Path
    ports: dict[str, int]  # those that must be these


class Plan:
    """Everything a session needs, checked before anything is started.

    Raises:
        LauncherError: something is missing, taken or wrong; the message names it and the fix.
        tritonserver.errors.MissingDependency: something that Triton needs is missing.
    """

    def __init__(self, options: Options):
        self.options = options
        self.state_dir = Path(os.path.realpath(options.state_dir))  # of a loop of links, too: it is refused below
        self._lock = open_state_dir(options.state_dir)
        self.redis_users = RedisUsers(self.state_dir / "redis-users", [*PROCESSES, "admin"])
        self.deployed = self.state_dir / "models"  # Triton's repository of the versions beside the first model
        self.deployed.mkdir(exist_ok=True)
        self.triton_key = self.state_dir / "triton-key"
        secret(self.triton_key)
        self.redis: RedisServer = find_redis()
        self.mlflow = mlflow_command()
        self.repository = options.model_repository.resolve()
        self.model = os.environ.get("ICESTREAM_BRIDGE_MODEL", str(BridgeSettings.model_fields["model"].default))
        self.max_pulses = _max_pulses(self.repository, self.model)
        _check_source(options.source)
        _check_report(options.report)
        self.ports = Ports(options.bridges, options.ports)
        self.experiment_id = "0"  # of MLflow, until the session has made one
        self.run_id = time.time_ns() // 1_000_000
        self.ignored: list[str] = []  # variables of the environment that would change what is set here
        self._check_settings()
        self.triton = TritonServer(self.state_dir)  # may have to fetch a library
        self.card = find_card(self.repository / self.model / "1" / "model.onnx")

    @property
    def redis_url(self) -> str:
        """Redis, as its user `admin`."""
        return f"redis://admin@{HOST}:{self.ports['redis']}"

    @property
    def redis_password(self) -> str:
        return self.redis_users.password_file("admin").read_text()

    @property
    def triton_url(self) -> str:
        return f"{HOST}:{self.ports['triton_grpc']}"

    @property
    def on_card(self) -> bool:
        """Whether Triton serves on an NVIDIA card."""
        return self.card is not None and self.card.unusable is None

    @property
    def triton_name(self) -> str:
        """Triton, and what it serves on where there is a choice."""
        if self.card is None:
            return "Triton"
        if self.card.unusable is None:
            return f"Triton on {self.card.name}"
        return f"Triton on the CPU (not on {self.card.name}: {self.card.unusable})"

    @property
    def mlflow_url(self) -> str:
        return f"http://{HOST}:{self.ports['mlflow']}"

    @property
    def mlflow_page(self) -> str:
        """The recorded runs in MLflow; its root shows an empty page for generative AI to a new browser."""
        return f"{self.mlflow_url}/#/experiments/{self.experiment_id}/runs?workflowType=machine_learning"

    @property
    def display_url(self) -> str:
        return f"http://{HOST}:{self.ports['display']}"

    @property
    def bridges(self) -> list[str]:
        return ["bridge", *(f"bridge{number}" for number in range(2, self.options.bridges + 1))]

    def redis_service(self) -> Service:
        folder = self.state_dir / "redis"
        folder.mkdir(exist_ok=True)
        cut_zeros(folder)
        return Service(
            name="redis",
            command=self.redis.command(folder, HOST, self.ports["redis"], self.redis_users.acl_file),
            ports=self._ports("redis"),
        )

    def triton_service(self) -> Service:
        names = ("triton_grpc", "triton_metrics", *(name for name in ASKED_FOR if name in self.ports))
        ports = self._ports(*names)
        return Service(
            name="triton",
            command=self.triton.command(
                self.repository,
                HOST,
                grpc=ports["triton_grpc"],
                metrics=ports["triton_metrics"],
                http=ports.get("triton_http"),
                on_card=self.on_card,
                control=ModelControlOptions(first=self.model, repository=self.deployed, key=secret(self.triton_key)),
            ),
            environment=self.triton.environment(),
            ports=ports,
        )

    def mlflow_service(self) -> Service:
        folder = self.state_dir / "mlflow"
        folder.mkdir(exist_ok=True)
        return Service(
            name="mlflow",
            command=mlflow_server(self.mlflow, folder, self.ports["mlflow"]),
            environment=MLFLOW_ENVIRONMENT,
            ports=self._ports("mlflow"),
        )

    def bridge_service(self, name: str = "bridge") -> Service:
        settings = {
            **self._redis_as("bridge"),
            "TRITON_URL": self.triton_url,
            "SHOW": "true",
            "METRICS_PORT": str(self.ports[f"{name}_metrics"]),
        }
        return Service(
            name=name,
            command=[sys.executable, "-m", "bridge"],
            environment=_prefixed(BridgeSettings, settings),
            ports=self._ports(f"{name}_metrics"),
            grace_s=25,
        )

    def challenger_service(self) -> Service:
        """A bridge that answers copies; it idles while there is no challenger."""
        settings = {
            **self._redis_as("challenger"),
            "TRITON_URL": self.triton_url,
            "CHALLENGER": "true",
            "IN_FLIGHT": "1",
            "MAX_BATCH": "8",
            "MAX_HELD": "128",
            "REQUEST_TIMEOUT_S": "10",
            "METRICS_PORT": str(self.ports["challenger_metrics"]),
        }
        return Service(
            name="challenger",
            command=[sys.executable, "-m", "bridge"],
            environment=_prefixed(BridgeSettings, settings),
            ports=self._ports("challenger_metrics"),
            grace_s=25,
        )

    def deployer_service(self) -> Service:
        settings = {
            **self._redis_as("deployer"),
            "TRITON_URL": self.triton_url,
            "TRITON_KEY_FILE": str(self.triton_key),
            "MLFLOW_URL": self.mlflow_url,
            "MODEL": self.model,
            "SHIPPED": str(self.repository),
            "REPOSITORY": str(self.deployed),
            "METRICS_PORT": str(self.ports["deployer_metrics"]),
        }
        return Service(
            name="deployer",
            command=[sys.executable, "-m", "deployer"],
            environment=_prefixed(DeployerSettings, settings),
            ports=self._ports("deployer_metrics"),
        )

    def recorder_service(self) -> Service:
        settings = {
            **self._redis_as("recorder"),
            "MLFLOW_URL": self.mlflow_url,
            "EXPERIMENT": EXPERIMENT,
            "SPOOL_DIR": str(self.state_dir / "spool"),
            "SESSION": str(self.run_id),
            "METRICS_PORT": str(self.ports["recorder_metrics"]),
        }
        return Service(
            name="recorder",
            command=[sys.executable, "-m", "recorder"],
            environment=_prefixed(RecorderSettings, settings),
            ports=self._ports("recorder_metrics"),
            grace_s=60,
        )

    def display_service(self) -> Service:
        settings = {
            **self._redis_as("display"),
            "TRITON_URL": self.triton_url,
            "MODEL": self.model,
            "PORT": str(self.ports["display"]),
            "MLFLOW_PAGE": self.mlflow_page,
            "METRICS_PORT": str(self.ports["display_metrics"]),
        }
        return Service(
            name="display",
            command=[sys.executable, "-m", "display"],
            environment=_prefixed(DisplaySettings, settings),
            ports=self._ports("display", "display_metrics"),
        )

    def emitter_service(self) -> Service:
        """The emitter; it ends by itself when all events are in the stream."""
        settings = {
            **self._redis_as("emitter"),
            "SOURCE": self.options.source,
            "RATE": self.options.rate,
            "SEED": str(self.options.seed),
            "RUN_ID": str(self.run_id),
            "METRICS_PORT": str(self.ports["emitter_metrics"]),
        }
        if self.options.events is not None:
            settings["COUNT"] = str(self.options.events)
        return Service(
            name="emitter",
            command=[sys.executable, "-m", "emitter"],
            environment=_prefixed(EmitterSettings, settings),
            ports=self._ports("emitter_metrics"),
            ends=True,
        )

    def write_ports(self) -> None:
        """Leave the ports in the state dir, for other programs."""
        (self.state_dir / "ports.json").write_text(json.dumps(self.ports.as_dict(), indent=2) + "\n")

    def close(self) -> None:
        """Let another session use the state dir."""
        self._lock.close()

    def _redis_as(self, user: str) -> dict[str, str]:
        return {
            "REDIS_URL": f"redis://{user}@{HOST}:{self.ports['redis']}",
            "REDIS_PASSWORD_FILE": str(self.redis_users.password_file(user)),
        }

    def _ports(self, *names: str) -> dict[str, int]:
        return {name: self.ports[name] for name in names}

    def _check_settings(self) -> None:
        """A wrong variable in the environment must not cost a start."""
        for settings, service in (
            (EmitterSettings, self.emitter_service()),
            (BridgeSettings, self.bridge_service()),
            (DeployerSettings, self.deployer_service()),
            (RecorderSettings, self.recorder_service()),
            (DisplaySettings, self.display_service()),
        ):
            if found := problems(settings, {**os.environ, **service.environment}):
                raise LauncherError("\n".join(found))
            own = service.environment
            self.ignored += [name for name, value in own.items() if os.environ.get(name, value) != value]


def mlflow_command() -> str:
    """The program `mlflow`; raises LauncherError."""
    found = shutil.which("mlflow", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise LauncherError("MLflow is not installed: pip install mlflow, or run make up")
    return found


def mlflow_server(mlflow: str, folder: Path, port: int) -> list[str]:
    """The command line of an MLflow server with its store in a folder, where it runs: not every path can be written as its URLs."""
    return [
        "env", "-C", str(folder), sys.executable, mlflow, "server", "--host", HOST, "--port", str(port), "--workers", "1",
        "--backend-store-uri", "sqlite:///mlflow.db", "--artifacts-destination", "artifacts",
    ]  # fmt: skip


def _max_pulses(repository: Path, model: str) -> int:
    """The limit of a model; 0 if its configuration has none, which the bridge will say."""
    models = sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))
    if not models:
        raise LauncherError(
            f"{repository} holds no model: run `python export/to_onnx.py`, or give another --model-repository"
        )
    if model not in models:
        raise LauncherError(
            f"{repository} holds no model {model}: set ICESTREAM_BRIDGE_MODEL to one of {', '.join(models)}"
        )
    with suppress(ValueError):
        return int(
            parse_config((repository / model / "config.pbtxt").read_text()).parameters["max_pulses"].string_value
        )
    return 0


def _check_source(source: str) -> None:
    if is_replay(source):
        try:
            open_files(source)
        except SourceError as error:
            raise LauncherError(str(error)) from None


def _check_report(report: Path) -> None:
    try:
        report.parent.mkdir(parents=True, exist_ok=True)
        report.touch()
    except OSError as error:
        raise LauncherError(f"{report} cannot be written ({error.strerror}): give another --report") from None


def _prefixed(settings: Any, values: dict[str, str]) -> dict[str, str]:
    prefix = settings.model_config["env_prefix"]
    return {prefix + name: value for name, value in values.items()}
