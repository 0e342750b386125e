"""Each alert is seen to fire: the right part of the running system is stopped, slowed or poisoned, and mended again."""

import json
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from icestream.registry import CHAMPION, REGISTERED, Registry
from icestream.streams import keys
from icestream.tensors import INPUTS, pad
from tests.compose.conftest import System
from tests.events import event
from tests.waiting import ROOT, wait_until
from tritonserver.process import HOST

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]
WITHIN_S = 420
RULES = yaml.safe_load((ROOT / "dashboards" / "prometheus" / "rules.yml").read_text())["groups"]


@contextmanager
def stopped(system: System, service: str) -> Iterator[None]:
    system.compose("stop", service)
    try:
        yield
    finally:
        system.compose("start", service)


@contextmanager
def paused(system: System, service: str) -> Iterator[None]:
    system.compose("pause", service)
    try:
        yield
    finally:
        system.compose("unpause", service)


@contextmanager
def slowed_triton(system: System) -> Iterator[None]:
    name = system.containers("triton")[0]["Id"]
    system.docker("update", "--cpus", "0.15", name)
    try:
        yield
    finally:
        system.docker("update", "--cpus", "2", name)


@contextmanager
def broken_entry(system: System) -> Iterator[None]:
    system.redis("XADD", keys.EVENTS, "*", "e", "no event")
    yield


@contextmanager
def a_model_that_fails(system: System) -> Iterator[None]:
    client = InferenceServerClient(f"{HOST}:{system.port['TRITON_GRPC']}")
    arrays = pad([event(1)], 16)
    arrays["time"] = arrays["time"][:, :3]  # Triton does not know that lengths must be equal; the model does
    inputs = []
    for name, array in arrays.items():
        inputs.append(InferInput(name, list(array.shape), INPUTS[name][0]))
        inputs[-1].set_data_from_numpy(np.ascontiguousarray(array))
    for _ in range(5):
        with pytest.raises(InferenceServerException):
            client.infer("icemix", inputs)
    client.close()
    # Where the model runs in processes of its own (Triton's Python backend), what they refuse is not counted, but their death is.
    try:
        system.compose("exec", "-T", "triton", "sh", "-c", "pkill -9 -f '[b]ackend_stub' || true")
        yield
    finally:
        system.compose("restart", "triton")


def mirrored() -> onnx.ModelProto:
    """The shipped model with opposite directions."""
    model = onnx.load(ROOT / "model_repository" / "icemix" / "1" / "model.onnx")
    for node in model.graph.node:
        node.output[:] = ["right" if name == "direction" else name for name in node.output]
    model.graph.node.append(onnx.helper.make_node("Neg", ["right"], ["direction"]))
    return model


@contextmanager
def another_model(system: System) -> Iterator[None]:
    """The champion has a second version of Triton's, another model; and no deployer is there to withdraw it."""
    version = ROOT / "model_repository" / "icemix" / "2"
    version.mkdir()
    try:
        with stopped(system, "deployer"):
            onnx.save(mirrored(), version / "model.onnx")
            system.compose("restart", "triton")
            yield
            shutil.rmtree(version)
            system.compose("restart", "triton")
    finally:
        shutil.rmtree(version, ignore_errors=True)


@contextmanager
def failing_champion(system: System) -> Iterator[None]:
    """A version is promoted, its file is changed on the disk, and Triton starts again."""
    models = ["exec", "-T", "deployer", "python", "-m", "deployer.models"]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "icemix"
        shutil.copytree(ROOT / "model_repository" / "icemix", copy)
        (copy / "README").write_text("so that the files are others")
        version = Registry(f"http://{HOST}:{system.port['MLFLOW']}", REGISTERED).register(copy, {})
        name = system.compose(*models, "promote", version, "--because", "a test").split(" is served as ")[1].split()[0]
        onnx.save(mirrored(), copy / "model.onnx")
        (copy / "model.onnx").chmod(0o644)
        deployer = system.containers("deployer")[0]["Id"]
        system.docker("cp", str(copy / "model.onnx"), f"{deployer}:/deployed/{name}/1/model.onnx")
    system.compose("restart", "triton")
    yield
    system.compose(*models, "rollback")


@contextmanager
def unprovable_version(system: System) -> Iterator[None]:
    """A registered version whose file is damaged, made champion as on MLflow's pages."""
    registry = Registry(f"http://{HOST}:{system.port['MLFLOW']}", REGISTERED)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "icemix"
        shutil.copytree(ROOT / "model_repository" / "icemix", copy)
        (copy / "1" / "model.onnx").write_bytes(b"no model")
        version = registry.register(copy, {})
    champion = next(one.version for one in registry.versions() if CHAMPION in one.aliases)
    registry.set_alias(CHAMPION, version)
    try:
        yield
    finally:
        registry.set_alias(CHAMPION, champion)


@contextmanager
def restarted_redis(system: System) -> Iterator[None]:
    system.compose("restart", "redis")
    yield


@contextmanager
def little_memory(system: System) -> Iterator[None]:
    lines = dict(line.split(":", 1) for line in system.redis("INFO", "memory") if ":" in line)
    almost_full = int(int(lines["used_memory"]) / 0.9)  # above the alarm's 0.8, below full
    system.redis("CONFIG", "SET", "maxmemory", str(almost_full))
    try:
        yield
    finally:
        system.redis("CONFIG", "SET", "maxmemory", "1gb")


@contextmanager
def filling(system: System) -> Iterator[None]:
    """Nobody takes the results, and there is little memory for them."""
    lines = dict(line.split(":", 1) for line in system.redis("INFO", "memory") if ":" in line)
    system.redis("CONFIG", "SET", "maxmemory", str(int(int(lines["used_memory"]) * 1.4)))
    try:
        with paused(system, "recorder"):
            yield
    finally:
        system.redis("CONFIG", "SET", "maxmemory", "1gb")


@contextmanager
def asked_without_triton(system: System) -> Iterator[None]:
    over = threading.Event()

    def ask() -> None:
        body = {"sensor_id": [1], "time_ns": [9000], "charge_pe": [1], "auxiliary": [False]}
        while not over.wait(2):
            with suppress(OSError):
                system.get("DISPLAY", "/v1/reconstruct", json.dumps(body).encode())

    with stopped(system, "triton"):
        asking = threading.Thread(target=ask)
        asking.start()
        try:
            yield
        finally:
            over.set()
            asking.join()


def poisoned(kind: str) -> Callable[[System], "object"]:
    @contextmanager
    def pour(system: System) -> Iterator[None]:
        """Instead of the emitter's events."""
        name = system.containers("emitter")[0]["Id"]
        system.docker("kill", "--signal", "STOP", name)  # its loop, so that only the poison flows
        script = (Path(__file__).parent / "poison.py").read_text()
        pouring = subprocess.Popen(
            ["docker", "exec", "-i", name, "timeout", "600", "python", "-", kind], stdin=subprocess.PIPE
        )
        assert pouring.stdin is not None
        pouring.stdin.write(script.encode())
        pouring.stdin.close()
        try:
            yield
        finally:
            pouring.kill()
            pouring.wait()
            system.docker("kill", "--signal", "CONT", name)
            system.compose("restart", "emitter")

    return pour


@dataclass(frozen=True)
class Fault:
    """Something that breaks, and the alerts that must tell of it."""

    name: str
    of: Callable[..., object]
    alerts: set[str]


FAULTS = [
    Fault("a broken entry", broken_entry, {"RejectedEntries"}),
    Fault("events that come again", poisoned("again"), {"EventsRepeated"}),
    Fault("a model that fails", a_model_that_fails, {"TritonFailing"}),
    Fault("little memory", little_memory, {"RedisMemoryHigh"}),
    Fault("the emitter is stopped", lambda system: stopped(system, "emitter"), {"EmitterSilent", "HeartbeatMissing"}),
    Fault("the bridge hangs", lambda system: paused(system, "bridge"), {"TargetDown", "HeartbeatMissing", "BacklogGrowing"}),
    Fault("Triton is slow", slowed_triton, {"LatencyOverBudget", "BacklogGrowing", "EventsNotHeld"}),
    Fault("Triton is stopped", lambda system: stopped(system, "triton"), {"TritonNotReady", "TargetDown", "OldestPendingTooOld", "BacklogGrowing"}),
    Fault("another model is served", another_model, {"ModelNotProved"}),
    Fault("a version that cannot be loaded", unprovable_version, {"ModelNotServed"}),
    Fault("a champion whose answers are wrong", failing_champion, {"ModelRolledBack", "ModelNotServed"}),
    Fault("Redis is stopped", lambda system: stopped(system, "redis"), {"RedisAway", "EmitterSilent"}),
    Fault("Redis is another process", restarted_redis, {"RedisFailedOver"}),
    Fault("the recorder is stopped", lambda system: stopped(system, "recorder"), {"RecorderBehind", "HeartbeatMissing"}),
    Fault("Redis fills up", filling, {"RedisFilling"}),
    Fault("MLflow is stopped", lambda system: stopped(system, "mlflow"), {"MLflowAway", "SpoolGrowing"}),
    Fault("REST is asked without Triton", asked_without_triton, {"DisplayFailing"}),
    Fault("events from above only", poisoned("down"), {"ZenithDrift"}),
    Fault("events without order", poisoned("shuffled"), {"KappaDrift", "AccuracyFalling"}),
]  # fmt: skip


# Alertmanager does not tell of these beside what they follow from.
INHIBITED = {
    "SpoolGrowing",
    "EventsNotHeld",
    "BacklogGrowing",
    "OldestPendingTooOld",
    "LatencyOverBudget",
    "RecorderBehind",
}


def logged(system: System) -> set[str]:
    """The alerts that Alertmanager has told of."""
    lines = system.compose("logs", "--no-color", "alert-log").splitlines()
    return {json.loads(line[line.index("{") :])["alertname"] for line in lines if "{" in line}


def test_every_alert_is_tried() -> None:
    alerts = {rule["alert"] for group in RULES for rule in group["rules"] if "alert" in rule}
    assert set().union(*(fault.alerts for fault in FAULTS)) == alerts


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_told_and_passes(system: System, fault: Fault) -> None:
    wait_until(lambda: not system.firing() & fault.alerts, "the alarms of the fault before are over", WITHIN_S)
    seen, began = set[str](), time.monotonic()

    def told() -> bool:
        for alert in sorted(system.firing() - seen):
            print(f"\n    {alert} after {time.monotonic() - began:.0f} s", end="", flush=True)
            seen.add(alert)
        return seen >= fault.alerts

    with fault.of(system):  # type: ignore[attr-defined]
        wait_until(told, f"{sorted(fault.alerts)} fire", WITHIN_S)
        wait_until(lambda: logged(system) >= fault.alerts - INHIBITED, "the log is told", 60)
    mended = time.monotonic()
    wait_until(lambda: not system.unwell(), "all services are healthy again", 120)
    wait_until(lambda: int(system.redis("XLEN", keys.EVENTS)[0]) < 100, "the backlog is worked off", 300)
    print(f"\n    well again {time.monotonic() - mended:.0f} s after it was mended")


def test_nothing_was_lost(system: System) -> None:
    emitted = system.emitted()
    wait_until(lambda: system.stored() + system.added(keys.REJECTED) >= emitted, "all is through", 300)
    assert system.added(keys.REJECTED) == 1
