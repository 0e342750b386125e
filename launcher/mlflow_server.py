"""`icestream mlflow`: opens the recorded sessions of a state dir again."""

import signal
from pathlib import Path

from mlflow import MlflowClient
from rich.console import Console

from icestream.results.mlflow_names import EXPERIMENT
from launcher.errors import LauncherError
from launcher.plan import MLFLOW_ENVIRONMENT, mlflow_command, mlflow_server
from launcher.state import open_state_dir
from tritonserver.process import HOST, ServerFailed, answers, start_server, stop_server


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
    lock = open_state_dir(state_dir)  # two servers must not write one store
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    (state_dir / "logs").mkdir(exist_ok=True)
    log = state_dir / "logs" / "icestream-mlflow.log"
    try:
        process, [port] = start_server(
            lambda ports: mlflow_server(mlflow_command(), folder, ports[0]),
            1,
            ready=lambda ports: answers(f"http://{HOST}:{ports[0]}/api/2.0/mlflow/experiments/get?experiment_id=0"),
            log=log,
            environment=MLFLOW_ENVIRONMENT,
        )
    except ServerFailed:
        raise LauncherError(f"MLflow does not start: its log is {log}") from None
    try:
        console.print(f"{_address(f'http://{HOST}:{port}')}   (Ctrl-C to stop)", soft_wrap=True, highlight=False)
        return process.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        stop_server(process)
        lock.close()


def _address(url: str) -> str:
    """The page of the latest recorded run."""
    client = MlflowClient(url)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return url
    runs = client.search_runs([experiment.experiment_id], order_by=["start_time DESC"], max_results=1)
    page = f"{url}/#/experiments/{experiment.experiment_id}/runs"
    return f"{page}/{runs[0].info.run_id}/model-metrics" if runs else f"{page}?workflowType=machine_learning"
