"""An exported network as it is served: its speed in ONNX Runtime, and its answers through Triton."""

import os
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from export.parity import Parity, cut_batches, example_inputs
from export.served import ServedIceMix
from export.triton_config import CPU_INSTANCES, MAX_BATCH, THREADS_PER_INSTANCE
from icestream.direction import opening_angle
from icestream.tensors import INPUTS
from icestream.up.errors import MissingPart
from icestream.up.triton import TritonServer

HOST = "127.0.0.1"
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
        server = TritonServer(work_dir)
    except MissingPart:
        return None
    server.lay_out()
    ports = [_free_port() for _ in range(3)]
    environment = {**os.environ, **server.environment()}
    with (work_dir / "triton.log").open("w") as log:
        process = subprocess.Popen(
            server.command(folder.parent, HOST, *ports), env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    angles, kappas = [], []
    try:
        client = InferenceServerClient(f"{HOST}:{ports[1]}")
        _wait_for(client, folder.name, process)
        for inputs in islice(cut_batches(limit), None):
            tensors = []
            for name, array in inputs.items():
                tensors.append(InferInput(name, list(array.shape), INPUTS[name][0]))
                tensors[-1].set_data_from_numpy(array)
            found = client.infer(folder.name, tensors).as_numpy("direction")
            with torch.inference_mode():
                expected, kappa, _ = served(*(torch.from_numpy(array) for array in inputs.values()))
            angles.append(np.degrees(opening_angle(expected.numpy(), found)))
            kappas.append(kappa[:, 0].numpy().astype(np.float64))
        client.close()
    finally:
        process.terminate()
        process.wait()
        server.clean_up()
    return Parity(np.concatenate(angles), np.concatenate(kappas))


def _wait_for(client: InferenceServerClient, model: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if client.is_model_ready(model):
                return
        except InferenceServerException:
            pass
        time.sleep(0.2)
    raise ValueError(f"Triton does not serve {model}: it was not ready within {START_S:g} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
