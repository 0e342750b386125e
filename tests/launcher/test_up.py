"""`icestream up` as a user runs it: real services, real kills."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from icestream.streams.connection import AuthenticationError, connect
from launcher.ports import DEFAULT_PORTS, Ports
from launcher.state import redis_of_session
from tests.servers import UP
from tests.waiting import ROOT, wait_until
from tritonserver.process import HOST

Up = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    """Starts `icestream up` in a folder of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object, log: str = "up.log") -> "subprocess.Popen[str]":
        command = [*UP, *map(str, arguments)]
        environment = {**os.environ, "ICE_TEST": str(tmp_path)}
        with open(tmp_path / log, "w") as file:
            process = subprocess.Popen(
                command,
                cwd=tmp_path,
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
                env=environment,
                start_new_session=True,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def pids(folder: Path) -> dict[str, int]:
    path = folder / ".icestream" / "pids.json"
    found: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
    return found


def alive(pid: int) -> bool:
    """A process runs (one that was killed and whose parent is gone may linger as a zombie)."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False


def descendants(folder: Path) -> list[int]:
    """Processes that were started in a test's folder, by the mark in their environment."""
    mark, found = f"ICE_TEST={folder}".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return [pid for pid in found if alive(pid)]


def report(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / ".icestream" / "report.json").read_text())
    return read


def test_it_works_on_when_nobody_reads_what_it_says_any_more(tmp_path: Path) -> None:
    """As in `icestream up | head`, or when the terminal is closed."""
    command = ["nohup", *UP, "--events", "100", "--rate", "50"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout
        process.stdout.readline()
        process.stdout.close()
        wait_until(lambda: (tmp_path / ".icestream" / "pids.json").exists(), "its services start", 60)
        process.send_signal(signal.SIGHUP)
        assert process.wait(180) == 0
    assert report(tmp_path)["recorded"] == 100


def test_a_replayed_folder_is_scored_and_two_bridges_share_it(
    tmp_path: Path, up: Up, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ICESTREAM_RECORDER_EXPERIMENT", "other")  # which is said, and not used
    made = [
        sys.executable,
        "-m",
        "launcher",
        "simulate",
        str(tmp_path / "kaggle"),
        "--events",
        "300",
        "--seed",
        "11",
    ]
    subprocess.run(made, check=True, stdout=subprocess.DEVNULL)
    process = up("--events", 300, "--source", f"kaggle:{tmp_path / 'kaggle'}", "--rate", "max", "--bridges", 2)
    assert process.wait(180) == 0, (tmp_path / "up.log").read_text()
    said = (tmp_path / "up.log").read_text()
    assert "not taken from the environment, see `icestream up --help`: ICESTREAM_RECORDER_EXPERIMENT\n" in said
    figures = report(tmp_path)
    assert (figures["emitted"], figures["reconstructed"], figures["recorded"]) == (300, 300, 300)
    assert figures["rejected"] == figures["lost"] == figures["duplicated"] == 0
    assert figures["score_radians"] == pytest.approx(figures["opening_angle_deg"]["mean"] * 3.14159265 / 180)
    assert figures["score_radians"] < 1.2
    assert figures["linefit_opening_angle_deg"]["mean"] > 30
    assert figures["mean_batch_size"] > 2
    assert 0 <= figures["padding_waste"] < 0.25
    assert figures["mlflow_run_id"]
    for picture in ("sky.png", "opening_angle.png"):
        assert (tmp_path / ".icestream" / picture).read_bytes().startswith(b"\x89PNG")
    wait_until(lambda: not descendants(tmp_path), "nothing is left")
    for log in (tmp_path / ".icestream" / "logs").iterdir():
        assert "Traceback" not in log.read_text(errors="replace"), log.name

    again = [sys.executable, "-m", "launcher", "mlflow"]
    with open(tmp_path / "mlflow.log", "w") as log:
        server = subprocess.Popen(again, cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT)
    try:
        page = f"/#/experiments/1/runs/{figures['mlflow_run_id']}/model-metrics"
        wait_until(lambda: page in (tmp_path / "mlflow.log").read_text(), "the address of the recorded run", 120)
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0
    finally:
        server.kill()
        server.wait()


def test_kill_9_of_any_part_loses_and_doubles_nothing(tmp_path: Path, up: Up) -> None:
    process = up("--events", 2000, "--rate", 80)
    log = tmp_path / "up.log"
    wait_until(
        lambda: "emitted, 1" in log.read_text() or "emitted, 2" in log.read_text() or "emitted, 3" in log.read_text(),
        "the stream runs",
        120,
    )
    for name in ("emitter", "bridge", "triton", "redis", "recorder", "mlflow", "display"):
        running = pids(tmp_path)
        assert name in running, f"{name} is over before it could be killed"
        os.kill(running[name], signal.SIGKILL)
        wait_until(
            lambda service=name, old=running[name]: pids(tmp_path).get(service, old) != old, f"{name} is started again"
        )
    assert process.wait(240) == 0, log.read_text()
    figures = report(tmp_path)
    assert (figures["emitted"], figures["reconstructed"]) == (2000, 2000)
    assert figures["rejected"] == figures["lost"] == figures["duplicated"] == 0
    assert set(figures["restarts"]) == {"bridge", "triton", "redis", "recorder", "mlflow", "emitter", "display"}


def check_its_doors(folder: Path) -> None:
    """Redis lets in who has a password, and has refused its own processes nothing; Triton speaks no HTTP."""
    assert "triton_http" not in json.loads((folder / ".icestream" / "ports.json").read_text())
    url, password = redis_of_session(folder / ".icestream")
    with connect(url, password) as admin:
        assert admin.acl_log() == []
        assert {one["user"] for one in admin.client_list()} >= {"emitter", "bridge", "recorder", "display", "deployer"}
    with connect(url.replace("admin@", "")) as anybody, pytest.raises(AuthenticationError):
        anybody.ping()
    listed = subprocess.run(
        [sys.executable, "-m", "launcher", "rejected", "list"], cwd=folder, capture_output=True, text=True
    )
    assert listed.returncode == 0, listed.stderr


def test_ctrl_c_ends_with_a_report_and_kill_9_leaves_nothing_behind(tmp_path: Path, up: Up) -> None:
    process = up("--rate", 20)
    log = tmp_path / "up.log"
    wait_until(lambda: "emitted, " in log.read_text(), "the stream runs", 120)
    second = subprocess.run(UP, cwd=tmp_path, capture_output=True, text=True)
    assert second.returncode == 1
    assert "another `icestream up` uses" in second.stderr
    check_its_doors(tmp_path)
    process.send_signal(signal.SIGINT)
    assert process.wait(90) == 0, log.read_text()
    assert report(tmp_path)["lost"] == 0
    assert not descendants(tmp_path)

    process = up("--rate", 20)
    wait_until(lambda: "emitted, " in log.read_text(), "the stream runs again", 120)
    running = pids(tmp_path)
    assert set(running) >= {"redis", "triton", "mlflow", "bridge", "recorder", "emitter"}
    process.kill()
    wait_until(lambda: not any(map(alive, running.values())) and not descendants(tmp_path), "all services are gone", 20)


def test_a_model_that_is_not_what_was_exported_ends_it_with_a_sentence(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    shutil.copytree(ROOT / "model_repository", repository)
    config = repository / "icemix" / "config.pbtxt"
    text = config.read_text()
    other = re.sub(r'(\\"kappa\\":)([0-9.]+)', r"\g<1>1\g<2>", text)  # κ of the known answers
    assert other != text
    config.write_text(other)
    command = [*UP, "--events", "1", "--model-repository", str(repository)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "model icemix is not what was exported: a known event of" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "redis={taken}"], "port {taken} for redis is taken: free it"),
        (["--port", "reddis=5"], "no port is called reddis"),
        (["--source", "kaggle:/nowhere"], "no such file or folder"),
        (["--source", "cagle:/nowhere"], "a source is simulate, kaggle:DIR or graphnet:FILE"),
        (["--rate", "fast"], "a rate is `max` or a number"),
        (["--events", "0"], "not a whole number above 0"),
        (["--model-repository", "/nowhere"], "holds no model"),
        (["--state-dir", "/proc/nowhere"], "give another --state-dir"),
        (["--report", "/proc/report.json"], "give another --report"),
        (["--seed", "-1"], "greater than or equal to 0"),
    ],
)
def test_what_is_missing_is_named_with_its_cure_before_anything_starts(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        taken = other.getsockname()[1]
        command = [*UP, "--events", "1", *(one.format(taken=taken) for one in arguments)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode in (1, 2)
    assert message.format(taken=taken) in done.stderr
    assert "Traceback" not in done.stderr
    assert "starting" not in done.stdout


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("ICESTREAM_BRIDGE_MODEL", "nowhere", "holds no model nowhere: set ICESTREAM_BRIDGE_MODEL to one of icemix"),
        ("ICESTREAM_BRIGDE_MODEL", "icemix", "unknown setting ICESTREAM_BRIGDE_MODEL"),
        ("ICESTREAM_RECORDER_WINDOW_S", "0", "ICESTREAM_RECORDER_WINDOW_S: Input should be greater than 0"),
    ],
)
def test_a_wrong_setting_is_named_once_before_anything_starts(
    tmp_path: Path, variable: str, value: str, message: str
) -> None:
    command = [*UP, "--events", "1"]
    environment = {**os.environ, variable: value}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.count(message) == 1
    assert "starting" not in done.stdout


def test_a_service_that_keeps_exiting_ends_everything_with_its_log(tmp_path: Path, up: Up) -> None:
    repository = tmp_path / "models" / "icemix"
    (repository / "1").mkdir(parents=True)
    (repository / "config.pbtxt").write_text('name: "icemix"\nbackend: "onnxruntime"\n')
    process = up("--model-repository", tmp_path / "models", "--events", 1)
    assert process.wait(120) == 1
    said = (tmp_path / "up.log").read_text()
    assert "triton keeps exiting" in said
    assert "Traceback" not in said
    assert not descendants(tmp_path)


def test_a_port_that_is_taken_after_it_was_chosen_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((HOST, 0))
        monkeypatch.setitem(DEFAULT_PORTS, "redis", other.getsockname()[1])
        ports = Ports(bridges=2, configured={})
        assert ports["redis"] == other.getsockname()[1]  # nobody listens yet
        other.listen()
        assert ports.replace_taken(["redis"])
        assert ports["redis"] != other.getsockname()[1]
    assert len(set(ports.as_dict().values())) == len(ports.as_dict()) == len(DEFAULT_PORTS) + 1


def test_two_that_are_started_together_take_different_ports(tmp_path: Path, up: Up) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    both = [
        up("--events", 200, "--rate", 200, "--state-dir", tmp_path / name, log=f"{name}.log")
        for name in ("one", "other")
    ]
    for process, name in zip(both, ("one", "other"), strict=True):
        assert process.wait(180) == 0, (tmp_path / f"{name}.log").read_text()
        assert json.loads((tmp_path / name / "report.json").read_text())["reconstructed"] == 200
    one, other = (json.loads((tmp_path / name / "ports.json").read_text()) for name in ("one", "other"))
    assert one["redis"] != other["redis"]  # the first to be started, so these lived at the same time
