"""Serving on an NVIDIA card without Docker, as far as a machine without one can tell."""

import os
import subprocess
from pathlib import Path

import onnxruntime
import pytest

from tests.servers import UP
from tests.waiting import ROOT
from tritonserver.card import find_card, load_on_card

MODEL = ROOT / "model_repository" / "icemix" / "1" / "model.onnx"


def card_in(folder: Path, prints: str, status: int = 0) -> str:
    """A PATH whose first folder has an `nvidia-smi` that prints something."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{prints}'\nexit {status}\n")
    program.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def test_without_a_driver_or_a_card_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_card(MODEL) is None
    monkeypatch.setenv("PATH", card_in(tmp_path, "NVIDIA-SMI has failed: no devices were found", 9))
    assert find_card(MODEL) is None


def test_a_card_without_its_onnx_runtime_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", card_in(tmp_path, "NVIDIA H200"))
    found = find_card(MODEL)
    assert found is not None
    assert (found.name, found.unusable) == ("NVIDIA H200", "ONNX Runtime is installed without CUDA: run `make gpu`")


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_session_that_fell_back_to_the_cpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="could not load CUDA or cuDNN"):
        load_on_card(MODEL, onnxruntime.SessionOptions(), 0)
    # The provider is there but its libraries are not.
    monkeypatch.setenv("PATH", card_in(tmp_path, "NVIDIA H200"))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    found = find_card(MODEL)
    assert found is not None
    assert "could not load CUDA or cuDNN: run `make gpu`" in (found.unusable or "")
    found = find_card(tmp_path / "no.onnx")
    assert found is not None
    assert "no.onnx" in (found.unusable or "")


def test_up_says_why_it_does_not_use_the_card_and_serves_on_the_cpu(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": card_in(tmp_path, "NVIDIA H200")}
    command = [*UP, "--events", "20", "--rate", "max"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    first = done.stdout.splitlines()[0]
    assert "Triton on the CPU (not on NVIDIA H200: ONNX Runtime is installed without CUDA: run `make gpu`)" in first
