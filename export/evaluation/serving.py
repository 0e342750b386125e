"""An exported network as it is served: its speed in ONNX Runtime, and its answers through Triton."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
from torch import nn

from export.evaluation.parity import Parity, compare, cut_batches, example_inputs
from export.triton_config import CPU_INSTANCES, MAX_BATCH, THREADS_PER_INSTANCE
from icestream.inference.blocking import BlockingClient
from tritonserver.errors import MissingDependency
from tritonserver.serving import serving

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


def triton_parity(served: nn.Module, folder: Path, limit: int, work_dir: Path) -> Parity | None:
    """PyTorch against the real Triton serving `folder`; None where no Triton is at hand.

    Args:
        folder: of the model, in a repository of its own.
        work_dir: for what the server needs.
    """
    try:
        with serving(folder.parent, work_dir) as url, BlockingClient(url, folder.name) as client:
            return compare(served, client.outputs, limit, cut_batches(limit))
    except MissingDependency:
        return None
