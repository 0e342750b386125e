"""Random faults against a running stream; at the end every good event has exactly one result, by a proved model.

    python -m tests.faults.chaos --faults 200 --seed 1

The whole stream runs on real servers: emitter, Redis, two bridges, two Tritons, recorder, MLflow, display. A fault kills one of them,
lets it hang, makes it slow, fills its disk or memory, sets its clock, takes Redis's last second, replaces a model, deletes a
consumer, or pours a hostile input. One line a fault; the same seed gives the same faults. Exit status 1 if anything was lost, doubled, answered by another model, or wrongly rejected.
"""

import argparse
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # before MLflow is imported

import numpy as np
import onnxruntime
from redis import RedisError

from icestream import wire
from icestream.detector import nominal_icecube86
from icestream.direction import opening_angle, to_vector
from icestream.event import Event, InvalidEvent
from icestream.sources.simulation.simulator import simulated_events
from icestream.streams import keys
from icestream.streams.results import payloads
from icestream.tensors import pad, padded_length
from launcher.report import recorded
from tests.faults.corpus import EVENTS, RESULTS, TRUTHS
from tests.models import FAULTS
from tests.servers import MlflowProcess, Program, RedisProcess, TritonProcess
from tests.waiting import ROOT, wait_until

RUN_ID, SEED, RATE = 7, 5, 40
CLOCK = str(Path(__file__).with_name("clock"))
CLOCK_S = 900.0  # a clock is set forward or back by at most so much
LOST_S = 1.0  # what Redis loses at most with appendfsync everysec
HANG_S = (1.0, 8.0)
SETTLED_S = 180.0
MAX_PULSES = 128  # of the shipped model
DIFFERENT_DEG = 0.5  # a direction so far from that of ONNX Runtime is of another model
BATCH = 32


class Stream:
    """The running stream. What ends is started again, as compose would do."""

    def __init__(self, folder: Path, stack: ExitStack):
        self.folder = folder
        self.redis_server = RedisProcess(self._folder("redis"))
        stack.callback(self.redis_server.close)
        self.tritons = {name: TritonProcess(self._folder(name)) for name in ("triton a", "triton b")}
        for triton in self.tritons.values():
            stack.callback(triton.close)
        self.mlflow = MlflowProcess(self._folder("mlflow"))
        stack.callback(self.mlflow.close)
        addresses = ",".join(triton.url for triton in self.tritons.values())
        url: dict[str, object] = {"redis_url": self.redis_server.url}
        bridge: dict[str, object] = {**url, "triton_url": f"ipv4:{addresses}", "claim_idle_s": 2, "show": "true"}
        self._settings: dict[str, tuple[str, dict[str, object]]] = {
            "emitter": ("emitter", {**url, "run_id": RUN_ID, "seed": SEED, "rate": RATE}),
            "bridge a": ("bridge", bridge),
            "bridge b": ("bridge", bridge),
            "recorder": ("recorder", {**url, "mlflow_url": self.mlflow.url, "spool_dir": folder / "spool", "session": "chaos", "window_s": 2, "part_s": 10}),
            "display": ("display", {**url, "triton_url": f"ipv4:{addresses}", "port": 0}),
        }  # fmt: skip
        self.programs = {name: self._start(name) for name in self._settings}
        stack.callback(lambda: [program.close() for program in self.programs.values()])
        self._sizes: list[tuple[float, int]] = []  # of the append-only file
        self._over = threading.Event()
        stack.callback(self._over.set)
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def redis(self) -> Any:
        return self.redis_server.client

    def restart(self, name: str) -> None:
        """Kill a program and start it again."""
        self.programs[name].kill()
        self.programs[name] = self._start(name)

    def append_only_file(self) -> tuple[Path, int]:
        """The file, and how long it was LOST_S ago."""
        [path] = (self.folder / "redis" / "appendonlydir").glob("*.incr.aof")
        before, now = time.monotonic() - LOST_S, path.stat().st_size
        # It may have been cut meanwhile; to cut it to more than it has would fill it with zeros.
        return path, min(now, next((size for when, size in reversed(self._sizes) if when <= before), now))

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            with suppress(ValueError, OSError):
                [path] = (self.folder / "redis" / "appendonlydir").glob("*.incr.aof")
                self._sizes = [*self._sizes[-100:], (time.monotonic(), path.stat().st_size)]
            for name, program in list(self.programs.items()):
                if program.process.poll() is not None and not self._over.is_set():
                    self.programs[name] = self._start(name)

    def _start(self, name: str) -> Program:
        module, settings = self._settings[name]
        return Program(module, self.folder, {"PYTHONPATH": CLOCK, "CHAOS_CLOCK": str(self.clock(name))}, **settings)

    def clock(self, name: str) -> Path:
        """The file that sets the clock of a program."""
        return self.folder / f"clock of {name}"

    def _folder(self, name: str) -> Path:
        folder = self.folder / name.replace(" ", "-")
        folder.mkdir()
        return folder


@contextmanager
def paused(pid: int, send: Callable[[int, int], None] = os.kill) -> Iterator[None]:
    send(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            send(pid, signal.SIGCONT)


def kill_program(stream: Stream, chance: random.Random) -> str:
    name = chance.choice(list(stream.programs))
    stream.programs[name].process.kill()
    return f"kill -9 of {name}"


def pause_program(stream: Stream, chance: random.Random) -> str:
    name, seconds = chance.choice(list(stream.programs)), chance.uniform(*HANG_S)
    with paused(stream.programs[name].process.pid):
        time.sleep(seconds)
    return f"{name} hangs for {seconds:.1f} s"


def set_clock(stream: Stream, chance: random.Random) -> str:
    name, by_s, seconds = (
        chance.choice(list(stream.programs)),
        chance.uniform(-CLOCK_S, CLOCK_S),
        chance.uniform(*HANG_S),
    )
    stream.clock(name).write_text(str(by_s))
    time.sleep(seconds)
    stream.clock(name).unlink()
    return f"the clock of {name} is set by {by_s:.0f} s for {seconds:.1f} s"


def fill_disk(stream: Stream, chance: random.Random) -> str:
    seconds, pid = chance.uniform(*HANG_S), stream.programs["recorder"].process.pid
    unlimited = resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    time.sleep(seconds)
    with suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)
    return f"the recorder's disk is full for {seconds:.1f} s"


def fill_redis(stream: Stream, chance: random.Random) -> str:
    seconds = chance.uniform(*HANG_S)
    stream.redis.config_set("maxmemory", "1mb")
    time.sleep(seconds)
    stream.redis.config_set("maxmemory", "0")
    return f"redis's memory is full for {seconds:.1f} s"


def kill_mlflow(stream: Stream, chance: random.Random) -> str:
    stream.mlflow.kill()
    seconds = chance.uniform(*HANG_S)
    time.sleep(seconds)
    stream.mlflow.start()
    return f"kill -9 of mlflow, away for {seconds:.1f} s"


def pause_mlflow(stream: Stream, chance: random.Random) -> str:
    seconds = chance.uniform(*HANG_S)
    with paused(stream.mlflow.process_group, os.killpg):
        time.sleep(seconds)
    return f"mlflow hangs for {seconds:.1f} s"


def kill_redis(stream: Stream, chance: random.Random) -> str:
    stream.redis_server.kill()
    stream.redis_server.start()
    return "kill -9 of redis"


def lose_a_second(stream: Stream, chance: random.Random) -> str:
    path, size = stream.append_only_file()
    stream.redis_server.kill()
    lost = path.stat().st_size - size
    os.truncate(path, size)
    stream.redis_server.start()
    return f"redis loses its last second ({lost} bytes)"


def pause_redis(stream: Stream, chance: random.Random) -> str:
    seconds = chance.uniform(*HANG_S)
    with paused(int(stream.redis.info("server")["process_id"])):
        time.sleep(seconds)
    return f"redis hangs for {seconds:.1f} s"


def kill_triton(stream: Stream, chance: random.Random) -> str:
    name = chance.choice(list(stream.tritons))
    stream.tritons[name].kill()
    stream.tritons[name].start()
    return f"kill -9 of {name}"


def pause_triton(stream: Stream, chance: random.Random) -> str:
    name, seconds = chance.choice(list(stream.tritons)), chance.uniform(*HANG_S)
    stream.tritons[name].pause()
    time.sleep(seconds)
    stream.tritons[name].resume()
    return f"{name} hangs for {seconds:.1f} s"


def slow_triton(stream: Stream, chance: random.Random) -> str:
    name, until = chance.choice(list(stream.tritons)), time.monotonic() + chance.uniform(*HANG_S)
    while time.monotonic() < until:
        with paused(stream.tritons[name].process_group, os.killpg):
            time.sleep(0.2)
        time.sleep(0.02)
    stream.tritons[name].resume()  # starts it again if it has not survived this
    return f"{name} is ten times as slow for some seconds"


def replace_model(stream: Stream, chance: random.Random) -> str:
    name = chance.choice(list(stream.tritons))
    fault, triton = chance.choice(FAULTS), stream.tritons[name]
    version = triton.repository / "icemix" / "2"
    shutil.copytree(triton.repository / fault / "1", version)
    for _ in range(2):  # with it, and without it
        triton.kill()
        triton.start()
        time.sleep(chance.uniform(1, 4))
        shutil.rmtree(version, ignore_errors=True)
    return f"{name} serves another model ({fault}) for some seconds"


def delete_consumer(stream: Stream, chance: random.Random) -> str:
    consumers = stream.redis.xinfo_consumers(keys.EVENTS, keys.BRIDGE_GROUP)
    name = chance.choice(consumers)["name"]
    orphans = stream.redis.xgroup_delconsumer(keys.EVENTS, keys.BRIDGE_GROUP, name)
    return f"XGROUP DELCONSUMER ({orphans} entries are nobody's)"


def pour(stream: Stream, chance: random.Random) -> str:
    key, corpus = chance.choice([(keys.EVENTS, EVENTS), (keys.DIRECTIONS, RESULTS), (keys.TRUTH, TRUTHS)])
    name = chance.choice(list(corpus))
    rejected = stream.redis.xinfo_stream(keys.REJECTED)["entries-added"] if stream.redis.exists(keys.REJECTED) else 0
    stream.redis.xadd(key, {wire.FIELD: corpus[name]})
    if key == keys.EVENTS:
        wait_until(
            lambda: stream.redis.exists(keys.REJECTED) and stream.redis.xinfo_stream(keys.REJECTED)["entries-added"] > rejected,
            f"{name!r} is rejected",
            SETTLED_S,
        )  # fmt: skip
    return f"hostile input into {key}: {name}"


INJECTED: list[Callable[[Stream, random.Random], str]] = [
    kill_program, kill_program, kill_program, pause_program, pause_program, kill_redis, lose_a_second, pause_redis,
    kill_triton, pause_triton, slow_triton, replace_model, replace_model, kill_mlflow, pause_mlflow, fill_disk, fill_redis,
    set_clock, set_clock, delete_consumer, pour, pour, pour, pour,
]  # fmt: skip


def emitted(stream: Stream) -> int:
    """Events of the run, as Redis counts them; 0 while it is away."""
    with suppress(RedisError):
        return int(stream.redis.hget(keys.run(RUN_ID), "emitted") or 0)
    return 0


def settle(stream: Stream) -> None:
    """Wait until all that is in the stream is reconstructed and recorded."""

    def settled() -> bool:
        with suppress(RedisError):
            pending = stream.redis.xpending(keys.DIRECTIONS, keys.RECORDER_GROUP)["pending"]
            [group] = [one for one in stream.redis.xinfo_groups(keys.DIRECTIONS) if one["name"] == b"recorder"]
            read = group["last-delivered-id"] == stream.redis.xinfo_stream(keys.DIRECTIONS)["last-generated-id"]
            return stream.redis.xlen(keys.EVENTS) == 0 and pending == 0 and read
        return False

    wait_until(settled, "all is reconstructed and recorded", SETTLED_S)


def verdict(stream: Stream) -> list[str]:
    """What does not hold, in words."""
    books = stream.redis.hgetall(keys.run(RUN_ID))
    emitted, stored = int(books[b"emitted"]), int(books[b"stored"])
    with tempfile.TemporaryDirectory() as folder:
        table, _ = recorded(stream.mlflow.url, "chaos", Path(folder))
    rows = [row for row in table.to_pylist() if row["run_id"] == RUN_ID]
    events = {
        event.event_id: event for event, _ in islice(simulated_events(nominal_icecube86(), SEED, RUN_ID), emitted)
    }
    found = Counter(row["event_id"] for row in rows)
    good_rejected = 0
    for payload in payloads(stream.redis, keys.REJECTED):
        with suppress(InvalidEvent):
            event = wire.decode_event(payload)
            good_rejected += event.run_id == RUN_ID and event.event_id in events
    counts = {
        "lost": len(events.keys() - found.keys()),
        "recorded more than once": sum(number > 1 for number in found.values()),
        "recorded that were never emitted": len(found.keys() - events.keys()),
        "too many or too few in Redis's books": abs(emitted - stored),
        "good events rejected": good_rejected,
        "answered by another model": different(rows, events),
    }
    print(f"{emitted} events emitted, {len(rows)} results, {stream.redis.xlen(keys.REJECTED)} entries rejected")
    print(", ".join(f"{number} {what}" for what, number in counts.items()))
    return [f"{number} {what}" for what, number in counts.items() if number]


def different(rows: list[dict[str, Any]], events: dict[int, Event]) -> int:
    """How many directions are not those of the shipped model in ONNX Runtime."""
    session = onnxruntime.InferenceSession(str(ROOT / "model_repository" / "icemix" / "1" / "model.onnx"))
    by_length = defaultdict[int, list[tuple[dict[str, Any], Event]]](list)
    for row in rows:
        if row["event_id"] in events:
            event = events[row["event_id"]].within_readout()
            by_length[padded_length(event.n_pulses, MAX_PULSES)].append((row, event))
    count = 0
    for length, pairs in by_length.items():
        for at in range(0, len(pairs), BATCH):
            chosen = pairs[at : at + BATCH]
            [expected] = session.run(["direction"], pad([event for _, event in chosen], length))
            answered = np.array([to_vector(row["azimuth"], row["zenith"]) for row, _ in chosen])
            count += int((np.degrees(opening_angle(expected, answered)) > DIFFERENT_DEG).sum())
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    chance, done = random.Random(options.seed), Counter[str]()
    print(f"seed {options.seed}")
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder, ExitStack() as stack:
        stream = Stream(Path(folder), stack)
        wait_until(lambda: int(stream.redis.get(keys.STORED) or 0) > 50, "the stream runs")
        began = time.monotonic()
        for number in range(1, options.faults + 1):
            before = emitted(stream)
            fault = chance.choice(INJECTED)
            words = fault(stream, chance)
            done[fault.__name__] += 1
            print(f"{number:4} {time.monotonic() - began:6.0f} s  {words}", flush=True)
            time.sleep(chance.uniform(0, 4))
        # What the last fault may have made Redis lose is emitted again.
        wait_until(lambda: emitted(stream) > before + 5 * RATE, "the emitter goes on", SETTLED_S)
        emitter = stream.programs.pop("emitter")
        assert emitter.stop() == 0
        settle(stream)
        recorder = stream.programs.pop("recorder")
        assert recorder.stop(120) == 0
        print("\n".join(f"{name:16} {number}" for name, number in sorted(done.items())))
        faults = verdict(stream)
        tracebacks = [
            path.name for path in Path(folder).glob("*.log") if "Traceback" in path.read_text(errors="replace")
        ]
    if tracebacks:
        faults.append(f"tracebacks in {', '.join(tracebacks)}")
    sys.exit("; ".join(faults) if faults else 0)


if __name__ == "__main__":
    main()
