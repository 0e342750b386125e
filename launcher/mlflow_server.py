"""`icestream mlflow`: opens the recorded sessions of a state dir again."""

import os
import subprocess
import time
from pathlib import Path

from mlflow import MlflowClient
from rich.console import Console

from icestream.results.mlflow_names import EXPERIMENT
from launcher.errors import LauncherError
from launcher.plan import MLFLOW_ENVIRONMENT, mlflow_command, mlflow_server
from launcher.ports import USUAL
from tritonserver.process import HOST, answers, free_ports, is_free

START_S = 60.0


def serve_recorded(state_dir: Path, console: Console) -> int:
    """Serve the MLflow store of a state dir until Ctrl-C; returns the exit status of the server.

    Raises:
        LauncherError: nothing is recorded there, or the server does not start.
    """
    folder = state_dir.resolve() / "mlflow"
    if not (folder / "mlflow.db").exists():
        raise LauncherError(
            f"{state_dir} has no recorded session: run `icestream up` first, or give another --state-dir"
        )
    port = USUAL["mlflow"] if is_free(USUAL["mlflow"]) else free_ports(1)[0]
    url = f"http://{HOST}:{port}"
    log_path = state_dir / "logs" / "mlflow-again.log"
    with open(log_path, "wb") as log:
        process = subprocess.Popen(
            mlflow_server(mlflow_command(), folder, port),
            env={**os.environ, **MLFLOW_ENVIRONMENT},
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + START_S
        while not answers(f"{url}/api/2.0/mlflow/experiments/get?experiment_id=0"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise LauncherError(f"MLflow does not start: its log is {log_path}")
            time.sleep(0.2)
        console.print(f"{_address(url)}   (Ctrl-C ends)", soft_wrap=True, highlight=False)
        return process.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        process.terminate()
        process.wait()


def _address(url: str) -> str:
    """The page of the latest recorded run."""
    client = MlflowClient(url)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return url
    runs = client.search_runs([experiment.experiment_id], order_by=["start_time DESC"], max_results=1)
    page = f"{url}/#/experiments/{experiment.experiment_id}/runs"
    return f"{page}/{runs[0].info.run_id}/model-metrics" if runs else f"{page}?workflowType=machine_learning"
