"""An exported network as it is served: its speed in ONNX Runtime, and its answers through Triton."""

import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from export.evaluation.parity import Parity, compare, cut_batches, example_inputs
from export.served import ServedIceMix
from export.triton_config import CPU_INSTANCES, MAX_BATCH, THREADS_PER_INSTANCE
from icestream.tensors import INPUTS, OUTPUTS, Arrays
from icestream.up.errors import MissingPart
from icestream.up.plan import HOST, free_port
from icestream.up.triton import TritonServer

START_S = 120.0
RUNS = 12


def events_per_second(model: Path, length: int) -> float:
    """Of ONNX Runtime on this machine's CPU, with the instances and threads that Triton is given; batches of MAX_BATCH."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS_PER_INSTANCE
    sessions = [
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]) for _ in range(CPU_INSTANCES)
    ]
    inputs = example_inputs(np.random.default_rng(0), MAX_BATCH, length, length)

    def work(session: onnxruntime.InferenceSession) -> None:
        for _ in range(RUNS):
            session.run(None, inputs)

    with ThreadPoolExecutor(CPU_INSTANCES) as pool:
        list(pool.map(lambda session: session.run(None, inputs), sessions))
        began = time.monotonic()
        list(pool.map(work, sessions))
        return CPU_INSTANCES * RUNS * MAX_BATCH / (time.monotonic() - began)


def triton_parity(served: ServedIceMix, folder: Path, limit: int, work_dir: Path) -> Parity | None:
    """PyTorch against the real Triton serving `folder`; None where no Triton is at hand.

    Args:
        folder: of the model, in a repository of its own.
        work_dir: for what the server needs.
    """
    try:
        with running_triton(folder.parent, work_dir) as url, InferenceServerClient(url) as client:

            def ask(inputs: Arrays) -> dict[str, NDArray[Any]]:
                tensors = []
                for name, array in inputs.items():
                    tensors.append(InferInput(name, list(array.shape), INPUTS[name][0]))
                    tensors[-1].set_data_from_numpy(array)
                result = client.infer(folder.name, tensors)
                return {name: result.as_numpy(name) for name in OUTPUTS}

            return compare(served, ask, limit, cut_batches(limit))
    except MissingPart:
        return None


@contextmanager
def running_triton(repository: Path, work_dir: Path) -> Iterator[str]:
    """A Triton that serves a repository; yields host:port of its gRPC service, ends it afterwards.

    Raises:
        MissingPart: there is no Triton on this machine.
        ValueError: it does not start; the message has its last words.
    """
    server = TritonServer(work_dir)
    server.lay_out()
    ports = [free_port() for _ in range(3)]
    url, log_path = f"{HOST}:{ports[1]}", work_dir / "triton.log"
    command, environment = server.command(repository, HOST, *ports), {**os.environ, **server.environment()}
    with log_path.open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        with InferenceServerClient(url) as client:
            _wait_for(client, process, log_path)
        yield url
    finally:
        process.terminate()
        process.wait()
        server.clean_up()


def _wait_for(client: InferenceServerClient, process: subprocess.Popen[bytes], log_path: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(InferenceServerException):
            if client.is_server_ready():
                return
        time.sleep(0.2)
    raise ValueError(f"Triton does not start: {log_path.read_text()[-1000:]}")
