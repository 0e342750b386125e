import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Gauge, start_http_server

from bridge.settings import BridgeSettings
from display.settings import DisplaySettings
from emitter.settings import EmitterSettings
from icestream.service.settings import COMPOSE, problems
from icestream.streams.connection import connect
from recorder.settings import RecorderSettings
from tests.servers import RedisProcess
from tests.waiting import ROOT

PROGRAMS = {
    "emitter": EmitterSettings,
    "bridge": BridgeSettings,
    "recorder": RecorderSettings,
    "display": DisplaySettings,
}


@pytest.mark.parametrize("settings", PROGRAMS.values())
def test_every_setting_has_a_default_and_a_description(settings: type) -> None:
    settings()
    assert all(field.description for field in settings.model_fields.values())


def test_a_misspelt_variable_is_refused_with_the_right_one() -> None:
    found = problems(EmitterSettings, {"ICESTREAM_EMITTER_RAET": "5", "HOME": "/"})
    assert found == ["unknown setting ICESTREAM_EMITTER_RAET; did you mean ICESTREAM_EMITTER_RATE?"]


@pytest.mark.parametrize("name", ["ICESTREAM_BRIGDE_MODEL", "ICESTREAM_MODEL", "ICESTREAM_BRIDGE_MODLE"])
def test_a_variable_that_no_program_reads_is_refused(name: str) -> None:
    assert problems(BridgeSettings, {name: "x"})[0].startswith(f"unknown setting {name}")


def test_variables_that_kubernetes_sets_are_passed_over() -> None:
    service = {"ICESTREAM_REDIS_PORT": "tcp://10.0.0.1:6379", "ICESTREAM_REDIS_SERVICE_HOST": "10.0.0.1"}
    assert problems(BridgeSettings, {**service, "ICESTREAM_REDIS_PORT_6379_TCP_ADDR": "10.0.0.1"}) == []


def test_variables_of_other_programs_are_passed_over() -> None:
    example = (ROOT / ".env.example").read_text()
    names = re.findall(r"^(ICESTREAM_\w+)=", example, re.MULTILINE)
    assert set(COMPOSE) <= set(names)
    bridge = {name for name in names if name.startswith("ICESTREAM_BRIDGE_")}
    other = {name: "1" for name in names if (name not in bridge and "_PORT" not in name) or name in COMPOSE}
    assert problems(BridgeSettings, other) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["emitter", "--rate", "-5"], "RATE"),
        (["emitter", "--run-id", "9223372036854775808"], "RUN_ID"),
        (["emitter", "--count", "99999999999999999999"], "COUNT"),
        (["emitter", "--source", "kagle:/x"], "simulate, kaggle:DIR or graphnet:FILE"),
        (["emitter", "--source", "kaggle:/nowhere"], "no such file or folder"),
        (["emitter", "--geometry", "/nowhere.csv"], "cannot be read"),
        (["bridge", "--max-batch", "many"], "MAX_BATCH"),
        (["bridge", "--redis-url", "localhost:6379"], "REDIS_URL"),
        (["bridge", "--redis-url", "redis://localhost:abc"], "REDIS_URL"),
        (["bridge", "--redis-url", "redis+sentinel://a,b:26379/name"], "must give each host with its port"),
        (["bridge", "--redis-url", "redis+sentinel://a:26379"], "is not redis+sentinel://"),
        (["bridge", "--redis-url", "redis+cluster://a:1,b:99999"], "must give each host with its port"),
        (["bridge", "--triton-headers", "x-key=secret"], "go over TLS only"),
        (["bridge", "--triton-headers", "X-Key=secret", "--triton-tls"], "names in small letters"),
        (["bridge", "--redis-url", "redis://localhost/five"], "must be a number"),
        (["bridge", "--metrics-port", "1", "--metrics-host", "192.0.2.1"], "give another port"),
        (["bridge", "--redis-password-file", "/nowhere"], "/nowhere cannot be read: No such file"),
        (["recorder", "--reference", "/nowhere"], "/nowhere is no reference"),
        (["recorder", "--window-s", "0"], "WINDOW_S"),
        (["display", "--token-file", "/nowhere"], "/nowhere cannot be read"),
        (["display", "--token-file", "/dev/null"], "/dev/null is empty: put the token into it"),
        (["display", "--host", "192.0.2.1"], "give another port"),
        (["recorder", "--mlflow-url", "localhost"], "begin with http://"),
        (["recorder", "--spool-dir", "/proc/spool"], "give another folder"),
    ],
)
def test_a_slip_on_the_command_line_is_one_sentence(arguments: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *arguments, "--metrics-port", "0"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "url",
    [
        "redis://:s3c/ret@localhost:6379",
        "http://:s3cret@localhost",
        "redis://:s3cret@localhost/db",
        "redis://:s3#cret@h:1",
    ],
)
def test_a_password_in_an_address_is_never_printed(url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bridge", "--redis-url", url], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "ICESTREAM_BRIDGE_REDIS_URL: " in done.stderr
    assert "s3" not in done.stdout + done.stderr


def test_a_password_comes_from_a_file(redis: Any, redis_server: RedisProcess, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret\n")
    settings = BridgeSettings(redis_url=redis_server.url, redis_password_file=tmp_path / "password")
    redis.config_set("requirepass", "s3cret")
    try:
        client = connect(settings.redis_url, settings.redis_password)
        assert client.ping()
        client.config_set("requirepass", "")
        client.close()
    finally:
        assert redis.ping()


def test_the_health_check_tells_a_loop_that_stands_still() -> None:
    registry = CollectorRegistry()
    beat = Gauge("icestream_bridge_heartbeat_timestamp_seconds", "", registry=registry)
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    port = server.server_port

    def check(at: int, *urls: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "icestream.service.health", str(at), *urls], capture_output=True, text=True
        )

    assert "has made no progress" in check(port).stderr  # not once
    beat.set(time.time())
    assert check(port).returncode == 0
    assert check(port, f"http://127.0.0.1:{port}/metrics").returncode == 0
    assert "http://127.0.0.1:1/health does not answer" in check(port, "http://127.0.0.1:1/health").stderr
    beat.set(time.time() - 60)
    assert check(port).returncode == 1
    assert re.search(r"has made no progress for 6\d s", check(port).stderr)
    beat.set(time.time() + 3600)  # the clock was set back by an hour
    assert check(port).returncode == 1
    server.shutdown()
    server.server_close()
    thread.join()
    assert "does not answer" in check(port).stderr
