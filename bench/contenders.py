"""What is compared: ONNX Runtime alone, Triton asked in three ways, the whole stream. Each gives events/s on the same mix."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow.parquet as pq

from bench.mix import batches, by_length, mix, write_input_data
from bench.page import follow_page
from bench.perf_analyzer import throughput
from export.triton_config import CPU_INSTANCES, MAX_BATCH, THREADS_PER_INSTANCE
from icestream.detector import nominal_icecube86
from icestream.inference.access import TritonAccess
from icestream.inference.client import TritonClient
from icestream.sources.kaggle import write_folder
from icestream.sources.simulation.simulator import simulated_events

IN_FLIGHT = 4  # the bridge's default


def onnx_runtime(model: Path) -> float:
    """ONNX Runtime without Triton: as many one-thread sessions as Triton has instances, batches of one length."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS_PER_INSTANCE
    sessions = [
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]) for _ in range(CPU_INSTANCES)
    ]
    work = batches(mix(), MAX_BATCH)
    order = np.random.default_rng(1).permutation(len(work))

    def run(session: onnxruntime.InferenceSession, mine: list[int]) -> None:
        for index in mine:
            session.run(None, work[index])

    with ThreadPoolExecutor(CPU_INSTANCES) as pool:
        for session in sessions:
            run(session, order[:4].tolist())
        began = time.perf_counter()
        shares = [order[start::CPU_INSTANCES].tolist() for start in range(CPU_INSTANCES)]
        list(pool.map(run, sessions, shares))
        seconds = time.perf_counter() - began
    return len(mix()) / seconds


def perf_analyzer_singles(url: str, folder: Path) -> float:
    """perf_analyzer with single events of mixed lengths, 32 in flight: what merging is left to Triton alone."""
    data = folder / "mix.json"
    write_input_data(mix(500), data)
    return throughput("icemix", url, data, batch=1, concurrency=32, folder=folder)


def perf_analyzer_batches(url: str, folder: Path) -> float:
    """perf_analyzer at its best: batches of one length, each length measured and weighted by its share of the mix."""
    events, seconds_per_event = mix(), 0.0
    for length, group in by_length(events).items():
        data = folder / f"mix{length}.json"
        write_input_data((group * MAX_BATCH)[: max(MAX_BATCH * (len(group) // MAX_BATCH), MAX_BATCH)], data)
        rate = throughput("icemix", url, data, batch=MAX_BATCH, concurrency=IN_FLIGHT, folder=folder)
        seconds_per_event += len(group) / len(events) / rate
    return 1 / seconds_per_event


def our_client(url: str) -> float:
    """The bridge's own client, its number of batches in flight."""
    work = batches(mix(), MAX_BATCH)
    order = iter(np.random.default_rng(1).permutation(len(work)).tolist())

    async def ask() -> float:
        triton = TritonClient(TritonAccess(url=url), "icemix", 60)

        async def one() -> None:
            for index in order:
                await triton.infer(work[index])

        await triton.infer(work[0])
        began = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(IN_FLIGHT)))
        seconds = time.perf_counter() - began
        await triton.close()
        return len(mix()) / seconds

    return asyncio.run(ask())


def whole_stream(repository: Path, model: str, folder: Path, *, events: int, bridges: int, page: bool) -> float:
    """`icestream up` on a replayed folder of the same mix, as fast as it goes: Redis, bridge, Triton, recorder, MLflow.

    With `page` a client follows it as an open page does. The middle is measured, from a tenth of the results to nine tenths: perf_analyzer leaves out start and end, too.
    """
    source = folder / "kaggle"
    if not source.exists():
        write_folder(source, islice(simulated_events(nominal_icecube86(), 7, 1), 2000))
    state = folder / f"up-{model}-{time.time_ns()}"
    command = [
        sys.executable,
        "-m",
        "launcher",
        "up",
        "--events",
        str(events),
        "--rate",
        "max",
        "--source",
        f"kaggle:{source}",
        "--bridges",
        str(bridges),
    ]
    environment = {**os.environ, "ICESTREAM_EMITTER_LOOP": "true", "ICESTREAM_BRIDGE_MODEL": model}
    if page:
        threading.Thread(target=follow_page, args=(state / "ports.json",), daemon=True).start()
    done = subprocess.run(
        [*command, "--model-repository", str(repository), "--state-dir", str(state)],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"icestream up failed:\n{done.stdout}\n{done.stderr}")
    parts = (state / "mlflow" / "artifacts").rglob("part-*.parquet")
    stored = np.sort(
        np.concatenate(
            [pq.read_table(part, columns=["stored_ns"], partitioning=None)["stored_ns"].to_numpy() for part in parts]
        )
    )
    if len(stored) != events:
        raise RuntimeError(f"{len(stored)} of {events} events are recorded")
    first, last = int(0.1 * events), int(0.9 * events)
    return float((last - first) / ((stored[last] - stored[first]) * 1e-9))
