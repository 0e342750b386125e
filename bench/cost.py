"""What an event costs each process: CPU seconds of a running stream, read from outside while it works."""

import json
import os
import subprocess
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import psutil
from prometheus_client.parser import text_string_to_metric_families

from bench.page import follow_page

LOOK_S = 0.2
FIRST, LAST = 0.15, 0.7  # of the events: between these everything works
NOT_YET = (OSError, HTTPException, ValueError, KeyError, psutil.Error)  # of a stream that starts, or ends
PROCESSES = ("emitter", "redis", "bridge", "triton", "recorder", "display", "mlflow")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A tree of icestream, and what it shall do."""

    tree: Path  # with its own environment in .venv
    repository: Path
    model: str
    source: str
    events: int
    rate: str


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The middle of a run."""

    events_per_s: float
    cpu_us: dict[str, float]  # of an event, by process

    @property
    def figures(self) -> dict[str, float]:
        return {"events/s": self.events_per_s} | {name: self.cpu_us.get(name, 0.0) for name in PROCESSES}


def measure(run: Run, state_dir: Path) -> Cost:
    """Run a stream to its end, with a page open; raises RuntimeError if it fails."""
    command: list[str | Path] = [
        run.tree / ".venv" / "bin" / "icestream", "up", "--events", str(run.events), "--rate", run.rate,
        "--source", run.source, "--bridges", "1", "--model-repository", run.repository,
        "--state-dir", state_dir, "--report", state_dir.with_suffix(".json"),
    ]  # fmt: skip
    environment = {**os.environ, "ICESTREAM_EMITTER_LOOP": "true", "ICESTREAM_BRIDGE_MODEL": run.model}
    environment |= {"PYTHONPATH": str(run.tree)}
    threading.Thread(target=follow_page, args=(state_dir / "ports.json",), daemon=True).start()
    with subprocess.Popen(
        command, cwd=run.tree, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        output = threading.Thread(target=lambda: said.append(process.communicate()[0]))
        said: list[str] = []
        output.start()
        samples = list(_samples(process, state_dir / "ports.json"))
        output.join()
    if process.returncode:
        raise RuntimeError(f"{run.tree}: icestream up failed:\n{said[0]}")
    middle = [sample for sample in samples if FIRST * run.events <= sample[1] <= LAST * run.events]
    if len(middle) < 3:
        raise RuntimeError(f"{run.tree}: {run.events} events were too few to measure: {len(middle)} looks")
    (began_s, before, cpu_before), (ended_s, after, cpu_after) = middle[0], middle[-1]
    return Cost(
        events_per_s=(after - before) / (ended_s - began_s),
        cpu_us={
            name: 1e6 * sum(max(0.0, seconds - cpu_before[name].get(pid, 0.0)) for pid, seconds in by_pid.items()) / (after - before)
            for name, by_pid in cpu_after.items()
        },
    )  # fmt: skip


Cpu = dict[str, dict[int, float]]  # process → pid → CPU seconds


def _samples(process: subprocess.Popen[str], ports: Path) -> Iterator[tuple[float, float, Cpu]]:
    """Time, results so far, and CPU seconds, again and again until the stream ends."""
    while process.poll() is None:
        time.sleep(LOOK_S)
        with suppress(*NOT_YET):
            stored = _stored(json.loads(ports.read_text())["bridge_metrics"])
            yield time.monotonic(), stored, _cpu(process.pid)


def _stored(port: int) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        samples = [sample for family in families for sample in family.samples]
    wanted = ("icestream_bridge_events_total", "stored")
    return sum(sample.value for sample in samples if (sample.name, sample.labels.get("outcome")) == wanted)


def _cpu(launcher: int) -> Cpu:
    found: Cpu = defaultdict(dict)
    for process in psutil.Process(launcher).children(recursive=True):
        with suppress(psutil.Error):
            times = process.cpu_times()
            found[_name(process.cmdline())][process.pid] = times.user + times.system
    return found


def _name(command: list[str]) -> str:
    words = " ".join(command)
    known = {"valkey": "redis", "redis": "redis", "mlflow": "mlflow", "triton": "triton"}
    module = command[command.index("-m") + 1].split(".")[-1] if "-m" in command[:-1] else ""
    return module if module in PROCESSES else next((name for part, name in known.items() if part in words), "launcher")
