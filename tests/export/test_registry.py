"""The model registry of a real MLflow."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import Model

from export.checkpoint import SHIPPED, load_checkpoint
from export.registry import RegistryError, register
from tests.servers import UNMEASURED
from tests.waiting import ROOT


def registered(mlflow_url: str, output: Path) -> ModelVersion:
    done = subprocess.run(
        [*UNMEASURED, sys.executable, ROOT / "export" / "to_onnx.py", "--output", output, "--register", mlflow_url],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    version = MlflowClient(mlflow_url).get_model_version_by_alias("icemix", "served")
    assert f"registered models:/icemix/{version.version}" in done.stdout
    return version


def test_a_registered_model_has_metrics_signature_and_alias(mlflow_url: str, tmp_path: Path) -> None:
    version = registered(mlflow_url, tmp_path)
    assert version.tags["checkpoint"] in (tmp_path / "icemix" / "config.pbtxt").read_text()
    client = MlflowClient(mlflow_url)
    model = client.get_logged_model(version.source.removeprefix("models:/"))
    _, card = load_checkpoint(SHIPPED)
    found = {metric.key: metric.value for metric in model.metrics}
    assert found["all_mean_deg"] == card["held_out"]["all_mean_deg"]
    local = tmp_path / "got"
    fetch = f"import mlflow; mlflow.artifacts.download_artifacts('models:/icemix@served', dst_path='{local}')"
    local.mkdir()
    environment = {**os.environ, "MLFLOW_TRACKING_URI": mlflow_url}
    subprocess.run([sys.executable, "-c", fetch], env=environment, check=True, capture_output=True)
    signature = Model.load(str(local)).signature
    assert signature is not None
    assert signature.inputs.input_names() == ["sensor_id", "time", "charge", "auxiliary", "n_pulses"]
    assert signature.outputs.input_names() == ["direction", "kappa", "radius"]
    exported = (tmp_path / "icemix" / "1" / "model.onnx").read_bytes()
    assert [path.read_bytes() for path in local.rglob("*.onnx")] == [exported]


def test_a_server_that_is_away_is_named() -> None:
    url = "http://127.0.0.1:1"
    with pytest.raises(RegistryError, match=f"the MLflow server at {url} does not take the model"):
        register(ROOT / "model_repository" / "icemix", "a checkpoint", {}, url)
