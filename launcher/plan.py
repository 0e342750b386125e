"""What runs, on which ports, with which settings: compose.yaml's services as processes."""

import fcntl
import json
import os
import shutil
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from icestream.sources.kaggle import KaggleError, open_folder
from launcher.redis_server import RedisServer, find_redis
from launcher.supervisor import Part
from tritonserver.errors import MissingPart
from tritonserver.server import TritonServer

HOST = "127.0.0.1"
PORTS = {
    "redis": 6379, "triton_http": 8000, "triton_grpc": 8001, "triton_metrics": 8002, "mlflow": 5000,
    "emitter_metrics": 9101, "bridge_metrics": 9102, "recorder_metrics": 9103,
    "display": 8080, "display_metrics": 9104,
}  # fmt: skip
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Options:
    """What `icestream up` was asked for."""

    events: int | None
    rate: str
    source: str
    seed: int
    bridges: int
    state_dir: Path
    report: Path
    model_repository: Path
    ports: dict[str, int]  # those that were told


class Plan:
    """Everything that is needed, found before anything is started.

    Raises:
        MissingPart: something is not there, or is taken; the message names it and the cure.
    """

    def __init__(self, options: Options):
        self.options = options
        self.state_dir = options.state_dir.resolve()
        try:
            self.state_dir.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.state_dir / "lock", "w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MissingPart(
                f"another `icestream up` uses {self.state_dir}: stop it, or give another --state-dir"
            ) from None
        except OSError as error:
            raise MissingPart(f"{self.state_dir} cannot be used ({error.strerror}): give another --state-dir") from None
        self.redis: RedisServer = find_redis()
        self.mlflow = shutil.which(
            "mlflow", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        )
        if self.mlflow is None:
            raise MissingPart("MLflow is not installed: pip install mlflow, or run make")
        self.repository = options.model_repository.resolve()
        if not list(self.repository.glob("*/config.pbtxt")):
            raise MissingPart(
                f"{self.repository} holds no model: run `python export/to_onnx.py`, or give another --model-repository"
            )
        if options.source.startswith("kaggle:"):
            try:
                open_folder(Path(options.source.removeprefix("kaggle:")))
            except KaggleError as error:
                raise MissingPart(str(error)) from None
        try:
            options.report.parent.mkdir(parents=True, exist_ok=True)
            options.report.touch()
        except OSError as error:
            raise MissingPart(f"{options.report} cannot be written ({error.strerror}): give another --report") from None
        wanted = PORTS | {f"bridge{number}_metrics": 9110 + number for number in range(2, options.bridges + 1)}
        self.port = _ports(wanted, options.ports)
        self.run_id = time.time_ns() // 1_000_000
        self.triton = TritonServer(self.state_dir)  # last: it may have to fetch a library

    @property
    def redis_url(self) -> str:
        return f"redis://{HOST}:{self.port['redis']}"

    @property
    def mlflow_url(self) -> str:
        return f"http://{HOST}:{self.port['mlflow']}"

    @property
    def bridges(self) -> list[str]:
        return ["bridge", *(f"bridge{number}" for number in range(2, self.options.bridges + 1))]

    def servers(self) -> list[Part]:
        """Redis, Triton and MLflow."""
        redis_dir, mlflow_dir = self.state_dir / "redis", self.state_dir / "mlflow"
        for folder in (redis_dir, mlflow_dir):
            folder.mkdir(exist_ok=True)
        self.triton.lay_out()
        assert self.mlflow is not None
        mlflow = [
            sys.executable, self.mlflow, "server", "--host", HOST, "--port", str(self.port["mlflow"]), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{mlflow_dir / 'mlflow.db'}", "--artifacts-destination", str(mlflow_dir / "artifacts"),
        ]  # fmt: skip
        triton = self.triton.command(
            self.repository, HOST, self.port["triton_http"], self.port["triton_grpc"], self.port["triton_metrics"]
        )
        return [
            Part("redis", self.redis.command(redis_dir, HOST, self.port["redis"])),
            Part("triton", triton, self.triton.environment()),
            # Job execution is for MLflow's generative AI; it would cost seven processes and 500 MB.
            Part("mlflow", mlflow, {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}),
        ]

    def cubes(self) -> list[Part]:
        """The bridges, the recorder and the display."""
        bridges = [
            Part(name, [sys.executable, "-m", "bridge"], {
                "ICESTREAM_BRIDGE_REDIS_URL": self.redis_url,
                "ICESTREAM_BRIDGE_TRITON_URL": f"{HOST}:{self.port['triton_grpc']}",
                "ICESTREAM_BRIDGE_SHOW": "true",
                "ICESTREAM_BRIDGE_METRICS_PORT": str(self.port[f"{name}_metrics"]),
            }, grace_s=25)
            for name in self.bridges
        ]  # fmt: skip
        recorder = Part("recorder", [sys.executable, "-m", "recorder"], {
            "ICESTREAM_RECORDER_REDIS_URL": self.redis_url,
            "ICESTREAM_RECORDER_MLFLOW_URL": self.mlflow_url,
            "ICESTREAM_RECORDER_SPOOL_DIR": str(self.state_dir / "spool"),
            "ICESTREAM_RECORDER_SESSION": str(self.run_id),
            "ICESTREAM_RECORDER_METRICS_PORT": str(self.port["recorder_metrics"]),
        }, grace_s=60)  # fmt: skip
        display = Part("display", [sys.executable, "-m", "display"], {
            "ICESTREAM_DISPLAY_REDIS_URL": self.redis_url,
            "ICESTREAM_DISPLAY_TRITON_URL": f"{HOST}:{self.port['triton_grpc']}",
            "ICESTREAM_DISPLAY_MODEL": os.environ.get("ICESTREAM_BRIDGE_MODEL", "icemix"),
            "ICESTREAM_DISPLAY_PORT": str(self.port["display"]),
            "ICESTREAM_DISPLAY_METRICS_PORT": str(self.port["display_metrics"]),
        })  # fmt: skip
        return [*bridges, recorder, display]

    def emitter(self) -> Part:
        """The emitter; it ends by itself when all events are in the stream."""
        settings = {
            "REDIS_URL": self.redis_url,
            "SOURCE": self.options.source,
            "RATE": self.options.rate,
            "SEED": str(self.options.seed),
            "RUN_ID": str(self.run_id),
            "METRICS_PORT": str(self.port["emitter_metrics"]),
        }
        if self.options.events is not None:
            settings["COUNT"] = str(self.options.events)
        return Part(
            "emitter",
            [sys.executable, "-m", "emitter"],
            {f"ICESTREAM_EMITTER_{name}": value for name, value in settings.items()},
            ends=True,
        )

    def write_addresses(self) -> None:
        """Leave the ports in the state dir, for whoever wants to look."""
        (self.state_dir / "ports.json").write_text(json.dumps(self.port, indent=2) + "\n")


def _ports(wanted: dict[str, int], told: dict[str, int]) -> dict[str, int]:
    """The usual port of each name if it is free, else any free one; told ones must be free."""
    unknown = told.keys() - wanted.keys()
    if unknown:
        raise MissingPart(f"no port is called {', '.join(sorted(unknown))}; known are {', '.join(wanted)}")
    found: dict[str, int] = {}
    for name, usual in wanted.items():
        number = told.get(name, usual)
        if number in found.values() or not _free(number):
            if name in told:
                raise MissingPart(f"port {number} for {name} is taken: free it, or give another --port {name}=NUMBER")
            number = free_port()
        found[name] = number
    return found


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
