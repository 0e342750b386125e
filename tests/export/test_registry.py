"""The model registry of a real MLflow."""

import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from export.checkpoint import SHIPPED, load_checkpoint
from icestream.registry import REGISTERED, Registry, RegistryError
from tests.servers import UNMEASURED
from tests.waiting import ROOT


def test_an_exported_model_becomes_a_version_with_its_files_and_metrics(mlflow_url: str, tmp_path: Path) -> None:
    output = tmp_path / "repository"
    done = subprocess.run(
        [*UNMEASURED, sys.executable, ROOT / "export" / "to_onnx.py", "--output", output, "--register", mlflow_url],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    registry = Registry(mlflow_url, REGISTERED)
    version = registry.versions()[0]
    assert f"registered version {version.version} of icemix" in done.stdout
    assert version.aliases == ()  # what is served does not change by it
    assert version.checkpoint in (output / "icemix" / "config.pbtxt").read_text()
    _, card = load_checkpoint(SHIPPED)
    metrics = MlflowClient(mlflow_url).get_run(version.run_id).data.metrics
    assert metrics["all_mean_deg"] == card["held_out"]["all_mean_deg"]
    registry.fetch(version, tmp_path / "got")
    exported = {path.relative_to(output / "icemix"): path.read_bytes() for path in _files(output / "icemix")}
    assert {path.relative_to(tmp_path / "got"): path.read_bytes() for path in _files(tmp_path / "got")} == exported


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_server_that_is_away_is_named() -> None:
    url = "http://127.0.0.1:1"
    with pytest.raises(RegistryError, match=f"the MLflow server at {url} does not do as asked"):
        Registry(url, REGISTERED).register(ROOT / "model_repository" / "icemix", {})
