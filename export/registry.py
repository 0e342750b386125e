"""MLflow's model registry: which ONNX files there are, how good each is, and which one is served."""

import os
from pathlib import Path
from typing import Any

import mlflow
import mlflow.onnx
import numpy as np
import onnx
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from icestream.results.mlflow_names import EXPERIMENT_TAGS
from icestream.tensors import INPUTS, OUTPUTS

ALIAS = "served"
EXPERIMENT = "icemix-models"
CHECKPOINT_TAG = "checkpoint"  # what config.pbtxt says as well: by it the recorder finds the version of a run
_TYPES: dict[str, Any] = {"INT32": np.int32, "FP32": np.float32, "BOOL": np.bool_}


class RegistryError(RuntimeError):
    """The model could not be registered; the message names the cause and the fix."""


def register(folder: Path, checkpoint: str, card: dict[str, Any], url: str) -> str:
    """Log an exported model with its metrics and signature, and give the new version the alias `ALIAS`.

    Args:
        folder: of the model in the repository; its name is the registered model's.
        checkpoint: what its config.pbtxt says of its weights.
        card: of the checkpoint; its held-out metrics go with the version.
        url: of the MLflow server.

    Returns:
        the version's address in the registry.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # the default tries for minutes
    signature = ModelSignature(inputs=_schema(INPUTS), outputs=_schema(OUTPUTS))
    metrics = {name: float(value) for name, value in card.get("held_out", {}).items() if name.endswith("_deg")}
    try:
        mlflow.set_tracking_uri(url)
        mlflow.set_experiment(EXPERIMENT)
        mlflow.set_experiment_tags(EXPERIMENT_TAGS)
        with mlflow.start_run(run_name=checkpoint):
            info = mlflow.onnx.log_model(
                onnx.load(folder / "1" / "model.onnx"),
                name=folder.name,
                signature=signature,
                registered_model_name=folder.name,
                pip_requirements=["onnxruntime"],
                save_as_external_data=False,
            )
            mlflow.log_metrics(metrics, model_id=info.model_id)
            mlflow.log_artifact(str(folder / "config.pbtxt"))
        client = MlflowClient(url)
        version = str(info.registered_model_version)
        client.set_model_version_tag(folder.name, version, CHECKPOINT_TAG, checkpoint)
        client.set_registered_model_alias(folder.name, ALIAS, version)
    except MlflowException as error:
        raise RegistryError(
            f"the MLflow server at {url} does not take the model: {str(error).splitlines()[0]}"
        ) from None
    return f"models:/{folder.name}/{version}"


def _schema(specification: dict[str, tuple[str, list[int]]]) -> Schema:
    return Schema(
        [TensorSpec(np.dtype(_TYPES[dtype]), (-1, *dims), name) for name, (dtype, dims) in specification.items()]
    )
