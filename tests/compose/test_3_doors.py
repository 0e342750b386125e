"""Doors of the running containers: who reaches whom, and what each asks for."""

import json
from http.client import HTTPConnection
from typing import Any

import pytest
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from tests.compose.conftest import System
from tritonserver.process import HOST

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]
PORTS = {"redis": 6379, "triton": 8001, "mlflow": 5000, "prometheus": 9090, "alertmanager": 9093, "grafana": 3000}
OUTSIDE = ("1.1.1.1", 443)
REACHES = {
    "emitter": {"redis", "prometheus"},
    "bridge": {"redis", "triton", "prometheus"},
    "challenger": {"redis", "triton", "prometheus"},
    "deployer": {"redis", "triton", "mlflow", "prometheus"},
    "recorder": {"redis", "mlflow", "prometheus"},
    "display": {"redis", "triton", "prometheus"},
    "alert-log": {"prometheus", "alertmanager", "grafana"},
}
CONNECT = """
import json, socket, sys
found = []
for name, port in json.loads(sys.argv[1]):
    try:
        for _ in range(4):  # whatever address its name leads to
            socket.create_connection((name, port), 3).close()
        found.append(name)
    except OSError:
        pass
print(json.dumps(found))
"""
ATTACK = """
import json, os, sys
from pathlib import Path
from redis.exceptions import NoPermissionError
from icestream.streams.connection import connect
prefix = next(name for name in os.environ if name.endswith("_REDIS_URL")).removesuffix("REDIS_URL")
client = connect(os.environ[prefix + "REDIS_URL"], Path(os.environ[prefix + "REDIS_PASSWORD_FILE"]).read_text().strip())
refused = []
for command in json.loads(sys.argv[1]):
    try:
        client.execute_command(*command.split())
    except NoPermissionError:
        refused.append(command)
print(json.dumps(refused))
"""
ATTACKS = [
    "FLUSHALL",
    "CONFIG SET maxmemory 1",
    "REPLICAOF 10.0.0.1 1",
    "KEYS *",
    "DEL {icestream}:directions",
    "ACL LIST",
]


def run(system: System, service: str, script: str, argument: Any) -> Any:
    python = "python3" if service == "alert-log" else "python"
    return json.loads(system.compose("exec", "-T", service, python, "-c", script, json.dumps(argument)))


@pytest.mark.parametrize("service", REACHES)
def test_a_container_reaches_what_it_needs_and_nothing_else(system: System, service: str) -> None:
    found = run(system, service, CONNECT, [*PORTS.items(), OUTSIDE])
    assert set(found) == REACHES[service]


def test_no_process_was_refused_anything_so_far(system: System) -> None:
    assert [line for line in system.redis("ACL", "LOG") if line.strip()] == []


@pytest.mark.parametrize("service", ["emitter", "bridge", "challenger", "recorder", "display", "deployer"])
def test_a_container_is_refused_what_its_process_does_not_do(system: System, service: str) -> None:
    assert run(system, service, ATTACK, ATTACKS) == ATTACKS


def test_model_control_asks_for_its_key(system: System) -> None:
    with InferenceServerClient(f"{HOST}:{system.port['TRITON_GRPC']}") as client:
        with pytest.raises(InferenceServerException, match="restricted"):
            client.unload_model("icemix")
        assert client.is_model_ready("icemix")


def test_a_page_of_another_origin_gets_nothing(system: System) -> None:
    places = {
        "DISPLAY": "/v1/status",
        "PROMETHEUS": "/api/v1/query?query=up",
        "MLFLOW": "/api/2.0/mlflow/experiments/get?experiment_id=0",
    }
    for service, path in places.items():
        connection = HTTPConnection(HOST, system.port[service], timeout=10)
        connection.request("GET", path, headers={"Origin": "https://evil.example"})
        answer = connection.getresponse()
        assert answer.status == 403 or "Access-Control-Allow-Origin" not in answer.headers, service
        connection.close()
