"""compose.yaml as a user starts it, under a project name, ports and volumes of its own; removed at the end."""

import json
import os
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from icestream.streams import keys
from tests.conftest import composer
from tests.waiting import ROOT, wait_until
from tritonserver.process import HOST, free_ports

PROJECT = "icestream-test"
HEALTHY_S = 300  # after the builds
PORTS = ("DISPLAY", "GRAFANA", "PROMETHEUS", "MLFLOW", "TRITON_GRPC", "TRITON_METRICS")


class System:
    """The running system."""

    def __init__(self, compose: list[str]):
        self.port = {name: free_ports(1)[0] for name in PORTS}
        self._compose = [*compose, "--project-name", PROJECT]
        self.environment = {**os.environ, **{f"ICESTREAM_{name}_PORT": str(port) for name, port in self.port.items()}}

    def compose(self, *words: str) -> str:
        """Run a command of Docker Compose; returns what it prints."""
        done = subprocess.run(
            [*self._compose, *words], cwd=ROOT, env=self.environment, capture_output=True, text=True, errors="replace"
        )
        assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done.stdout

    def up(self, *words: str) -> float:
        """Start all; returns the seconds until everything is healthy."""
        began = time.monotonic()
        self.compose("up", "-d", *words)
        wait_until(lambda: not self.unwell(), "all services are healthy", HEALTHY_S - (time.monotonic() - began))
        return time.monotonic() - began

    def docker(self, *words: str) -> str:
        return subprocess.run(["docker", *words], check=True, capture_output=True, text=True).stdout

    def containers(self, service: str = "") -> list[dict[str, Any]]:
        """What Docker knows of the project's containers."""
        chosen = [f"--filter=label=com.docker.compose.project={PROJECT}"]
        chosen += [f"--filter=label=com.docker.compose.service={service}"] if service else []
        ids = self.docker("ps", "-aq", *chosen).split()
        found: list[dict[str, Any]] = json.loads(self.docker("inspect", *ids)) if ids else []
        return found

    def unwell(self) -> list[str]:
        """Containers that are neither healthy nor have ended as they should."""
        return [
            container["Name"]
            for container in self.containers()
            if container["State"].get("Health", {}).get("Status") != "healthy"
            and not (container["State"]["Status"] == "exited" and container["State"]["ExitCode"] == 0)
        ]

    def redis(self, *words: str) -> list[str]:
        """A command of redis-cli; returns its lines."""
        script = 'REDISCLI_AUTH=$(cat /auth/password) exec redis-cli --user admin "$@"'
        return self.compose("exec", "-T", "redis", "sh", "-c", script, "sh", *words).splitlines()

    def emitted(self) -> int:
        """Events that were ever put into the stream: counted by the emitter's own script."""
        runs = self.redis("--scan", "--pattern", f"{keys.EMITTED}:*")
        return sum(int(self.redis("HGET", run, "emitted")[0]) for run in runs)

    def stored(self) -> int:
        """Results that were ever stored."""
        return int(self.redis("GET", keys.STORED)[0] or 0)

    def added(self, stream: str) -> int:
        """Entries that were ever added to a stream."""
        if self.redis("EXISTS", stream) == ["0"]:
            return 0
        lines = self.redis("XINFO", "STREAM", stream)
        return int(lines[lines.index("entries-added") + 1])

    def ask(self, expr: str) -> list[dict[str, Any]]:
        """What Prometheus answers; nothing while it is away."""
        try:
            data = self.get("PROMETHEUS", "/api/v1/query?" + urllib.parse.urlencode({"query": expr}))
        except OSError:
            return []
        found: list[dict[str, Any]] = data["data"]["result"]
        return found

    def firing(self) -> set[str]:
        return {series["metric"]["alertname"] for series in self.ask('ALERTS{alertstate="firing"}')}

    def get(self, service: str, path: str, body: bytes | None = None) -> Any:
        """The JSON of an answer; asked again where that was too often."""
        headers = {} if body is None else {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://{HOST}:{self.port[service]}{path}", body, headers)
        while True:
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code != 429:
                    raise
            time.sleep(1)


@pytest.fixture(scope="session")
def system() -> Iterator[System]:
    compose = composer()
    try:
        engine = subprocess.run(["docker", "info"], capture_output=True).returncode == 0
    except FileNotFoundError:
        engine = False
    if compose is None or not engine:
        pytest.skip("no Docker engine answers here (docker info), or there is no Docker Compose")
    running = System(compose)
    running.compose("down", "--volumes", "--timeout", "1")
    running.compose("build")
    try:
        running.seconds_to_health = running.up()  # type: ignore[attr-defined]
        yield running
    finally:
        running.compose("down", "--volumes", "--timeout", "1")
