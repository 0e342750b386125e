"""What an event costs each process: CPU seconds of a running stream, read from outside while it works."""

import json
import os
import re
import subprocess
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
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
    bridges: int = 1
    cores: int | None = None  # the first so many of the machine; all of them
    settings: Mapping[str, str] = field(default_factory=dict)  # more of ICESTREAM_*


@dataclass(frozen=True, kw_only=True)
class Look:
    """A running stream at one time."""

    time_s: float
    stored: float  # results so far
    held: float  # events that the bridges have read and not stored
    cpu_s: dict[str, dict[int, float]]  # process → pid → CPU seconds
    memory_mb: dict[str, float]  # resident, by process


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
    looks = [look for look in follow(run, state_dir) if FIRST * run.events <= look.stored <= LAST * run.events]
    if len(looks) < 3:
        raise RuntimeError(f"{run.tree}: {run.events} events were too few to measure: {len(looks)} looks")
    first, last = looks[0], looks[-1]
    events = last.stored - first.stored
    return Cost(
        events_per_s=events / (last.time_s - first.time_s),
        cpu_us={
            name: 1e6 * sum(max(0.0, seconds - first.cpu_s[name].get(pid, 0.0)) for pid, seconds in by_pid.items()) / events
            for name, by_pid in last.cpu_s.items()
        },
    )  # fmt: skip


def follow(run: Run, state_dir: Path, seen: Callable[[Look], object] = bool) -> list[Look]:
    """Run a stream to its end, with a page open, and look at it meanwhile; raises RuntimeError if it fails.

    Args:
        seen: is called with each look.
    """
    command: list[str | Path] = [
        run.tree / ".venv" / "bin" / "icestream", "up", "--events", str(run.events), "--rate", run.rate,
        "--source", run.source, "--bridges", str(run.bridges), "--model-repository", run.repository,
        "--state-dir", state_dir, "--report", state_dir.with_suffix(".json"),
    ]  # fmt: skip
    environment = {**os.environ, "ICESTREAM_EMITTER_LOOP": "true", "ICESTREAM_BRIDGE_MODEL": run.model}
    environment |= {"PYTHONPATH": str(run.tree), **run.settings}
    threading.Thread(target=follow_page, args=(state_dir / "ports.json",), daemon=True).start()
    with subprocess.Popen(
        command, cwd=run.tree, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        if run.cores:
            os.sched_setaffinity(process.pid, sorted(os.sched_getaffinity(0))[: run.cores])
        output = threading.Thread(target=lambda: said.append(process.communicate()[0]))
        said: list[str] = []
        output.start()
        looks = []
        for look in _looks(process, state_dir / "ports.json"):
            looks.append(look)
            seen(look)
        output.join()
    if process.returncode:
        raise RuntimeError(f"{run.tree}: icestream up failed:\n{said[0]}")
    return looks


def _looks(process: subprocess.Popen[str], ports: Path) -> Iterator[Look]:
    while process.poll() is None:
        time.sleep(LOOK_S)
        try:
            stored, held = _bridges(json.loads(ports.read_text()))
            cpu_s, memory_mb = _processes(process.pid)
        except NOT_YET:
            continue
        yield Look(time_s=time.monotonic(), stored=stored, held=held, cpu_s=cpu_s, memory_mb=memory_mb)


def _bridges(ports: dict[str, int]) -> tuple[float, float]:
    """Results that all bridges have stored, and events that they hold."""
    stored = held = 0.0
    for port in (port for name, port in ports.items() if re.fullmatch(r"bridge\d*_metrics", name)):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        for sample in (sample for family in families for sample in family.samples):
            if (sample.name, sample.labels.get("outcome")) == ("icestream_bridge_events_total", "stored"):
                stored += sample.value
            elif sample.name == "icestream_bridge_held_events":
                held += sample.value
    return stored, held


def _processes(launcher: int) -> tuple[dict[str, dict[int, float]], dict[str, float]]:
    """CPU seconds and resident memory (shared pages count in each) of what a launcher has started."""
    cpu_s: dict[str, dict[int, float]] = defaultdict(dict)
    memory_mb: dict[str, float] = defaultdict(float)
    for process in psutil.Process(launcher).children(recursive=True):
        with suppress(psutil.Error):
            name, times = _name(process.cmdline()), process.cpu_times()
            cpu_s[name][process.pid] = times.user + times.system
            memory_mb[name] += process.memory_info().rss / 2**20
    return cpu_s, memory_mb


def _name(command: list[str]) -> str:
    words = " ".join(command)
    known = {"valkey": "redis", "redis": "redis", "mlflow": "mlflow", "triton": "triton"}
    module = command[command.index("-m") + 1].split(".")[-1] if "-m" in command[:-1] else ""
    return module if module in PROCESSES else next((name for part, name in known.items() if part in words), "launcher")
