"""A system whose model can be changed: Triton with model control, Redis, MLflow with an empty registry, deployer and bridge."""

import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest

from deployer.models import Models
from icestream import wire
from icestream.detector import nominal_icecube86
from icestream.registry import Registry
from icestream.results.comparison import Comparison, Copies
from icestream.sources.simulation.simulator import simulated_events
from icestream.streams import keys
from icestream.streams.challenge import read_comparison, read_copies
from icestream.streams.serving import Serving, read_serving
from tests.events import event, put, results, stored
from tests.servers import Display, MlflowProcess, Program, RedisProcess, TritonProcess
from tests.waiting import ROOT, wait_until
from tritonserver.server import ModelControlOptions

SHIPPED = ROOT / "model_repository" / "icemix"
KEY = "a key"


def plain(name: str) -> str:
    """A model's name in Triton without the SHA-256 of its files."""
    return re.sub(r"(-v\d+)-[0-9a-f]{8}$", r"\1", name)


class System:
    """The processes, and what a user does with them."""

    def __init__(self, folder: Path, redis: RedisProcess, mlflow_url: str, program: Callable[..., Program]):
        self.folder, self._redis, self._mlflow_url, self._program = folder, redis, mlflow_url, program
        self.redis: Any = redis.client
        self.deployed = folder / "deployed"
        self.deployed.mkdir()
        (folder / "key").write_text(KEY)
        self.triton = TritonProcess(folder, ModelControlOptions(first="icemix", repository=self.deployed, key=KEY))
        self.registry = Registry(mlflow_url, f"icemix-{uuid.uuid4().hex}")
        self.models = Models(self.registry, redis.url, None, budget_s=60)  # speed is for the benchmarks
        self._numbers = count(1)
        self.emitted = 0
        self._simulated = simulated_events(nominal_icecube86(), 77, 6)
        self._displays: list[Display] = []

    def deployer(self, **settings: object) -> Program:
        return self._program(
            "deployer",
            **{
                "redis_url": self._redis.url, "triton_url": self.triton.url, "triton_key_file": self.folder / "key",
                "mlflow_url": self._mlflow_url, "registered_model": self.registry.model, "shipped": ROOT / "model_repository", "repository": self.deployed,
                "poll_s": 0.5, "grace_s": 1, **settings,
            },
        )  # fmt: skip

    def bridge(self, **settings: object) -> Program:
        given = {"redis_url": self._redis.url, "triton_url": self.triton.url, "claim_idle_s": 1, **settings}
        return self._program("bridge", **given)

    def emitter(self, **settings: object) -> Program:
        return self._program("emitter", redis_url=self._redis.url, **settings)

    def challenger(self) -> Program:
        """The bridge that answers copies by the challenger."""
        return self.bridge(challenger=True, in_flight=1, max_batch=32, max_held=128)

    def recorder(self) -> Program:
        return self._program(
            "recorder", redis_url=self._redis.url, mlflow_url=self._mlflow_url, spool_dir=self.folder / "spool",
            experiment=self.registry.model, window_s=0.5,
        )  # fmt: skip

    def display(self) -> Display:
        self._displays.append(Display(self.folder, redis_url=self._redis.url, triton_url=self.triton.url))
        return self._displays[-1]

    def close(self) -> None:
        for display in self._displays:
            display.process.close()
        self.triton.close()

    def register(self, change: Callable[[Path], object] = Path.exists) -> str:
        """A version with the shipped weights under another name, changed."""
        number = next(self._numbers)
        folder = self.folder / f"export-{number}" / "icemix"
        shutil.copytree(SHIPPED, folder)
        config = folder / "config.pbtxt"
        text, found = re.subn(
            r'(key: "checkpoint" value: \{ string_value: ")[^"]*', rf"\1other {number}", config.read_text()
        )
        assert found == 1
        config.write_text(text)
        change(folder)
        return self.registry.register(folder, {})

    def send(self, number: int) -> None:
        put(self.redis, *(event(self.emitted + one) for one in range(number)))
        self.emitted += number

    def send_simulated(self, number: int) -> None:
        """Simulated events, and their truths before them; each is sent once."""
        for one, truth in islice(self._simulated, number):
            self.redis.xadd(keys.TRUTH, {wire.FIELD: wire.encode_truths([truth])})
            self.redis.xadd(keys.EVENTS, {wire.FIELD: wire.encode_event(one, time.time_ns())})
            self.emitted += 1

    @property
    def copies(self) -> Copies:
        """What became of the copies for the challenger."""
        return read_copies(self.redis, self.serving.epoch if self.serving else 0)

    @property
    def compared(self) -> Comparison | None:
        """How the challenger compares."""
        serving = self.serving
        return read_comparison(self.redis, serving.epoch) if serving else None

    @property
    def serving(self) -> Serving | None:
        return read_serving(self.redis)

    def serves(self, name: str) -> Callable[[], bool]:
        """Whether the champion has this name, of which the SHA-256 may be left out."""
        return lambda: (serving := self.serving) is not None and plain(serving.champion.name) == name

    def answered_by(self) -> list[str]:
        """The model of each result, in the order of the events; each event has one result."""
        found = {(one.run_id, one.event_id): plain(one.model) for one in results(self.redis)}
        assert len(results(self.redis)) == len(found)
        return [found[event] for event in sorted(found)]

    def all_answered(self) -> None:
        wait_until(lambda: stored(self.redis) >= self.emitted, "all events have results", 120)


@pytest.fixture
def system(
    tmp_path: Path, redis_server: RedisProcess, mlflow_url: str, program: Callable[..., Program]
) -> Iterator[System]:
    one = System(tmp_path, redis_server, mlflow_url, program)
    yield one
    one.close()


@pytest.fixture
def own_mlflow(tmp_path: Path) -> Iterator[MlflowProcess]:
    """An MLflow that a test may kill."""
    (tmp_path / "mlflow").mkdir()
    mlflow = MlflowProcess(tmp_path / "mlflow")
    yield mlflow
    mlflow.close()


@pytest.fixture
def frail_system(
    tmp_path: Path, redis_server: RedisProcess, own_mlflow: MlflowProcess, program: Callable[..., Program]
) -> Iterator[System]:
    """One with such an MLflow."""
    one = System(tmp_path, redis_server, own_mlflow.url, program)
    yield one
    one.close()
