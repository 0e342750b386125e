"""One `icestream up` from start to end."""

import asyncio
import json
import os
import re
import signal
import tempfile
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from requests import RequestException
from rich.console import Console

from icestream.inference.blocking import server_version
from icestream.results.mlflow_names import EXPERIMENT, EXPERIMENT_TAGS
from icestream.results.pictures import opening_angles, sky_map
from icestream.results.table import SCHEMA
from icestream.streams.connection import RedisError
from launcher.errors import LauncherError
from launcher.plan import Plan
from launcher.report import is_whole, recorded, report, write_report
from launcher.status import Probe
from launcher.supervisor import Supervisor
from launcher.view import View
from tritonserver.process import answers

POLL_S = 0.5
STILL_S = 30.0  # of waiting for a service, until it is said why
DRAIN_S = 20.0  # after Ctrl-C: time for the events in the stream to be reconstructed


class Session:
    """Starts the services, shows the stream, stops the services, reports."""

    def __init__(self, plan: Plan, console: Console):
        self._plan = plan
        self._probe = Probe(plan)
        self._supervisor = Supervisor(plan.state_dir, self._replace_taken)
        self._view = View(console, plan, self._supervisor)
        self._interrupted = asyncio.Event()

    async def run(self) -> int:
        """Run to the end; returns the exit status.

        Raises:
            ServiceFailed: a service keeps exiting.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
                loop.add_signal_handler(number, self._interrupt)
        try:
            figures = await self._race(self._work())
        finally:
            await self._supervisor.stop_all(_stop_order)
            self._plan.triton.clean_up()
        if figures is None:
            return 130 if self._interrupted.is_set() else 1
        self._finish(figures)
        return 0 if is_whole(figures) else 1

    def _interrupt(self) -> None:
        if self._interrupted.is_set():  # the second time: at once. The watchdog ends the services.
            self._view.say("exited immediately; the next `icestream up` continues with the events in the stream")
            os._exit(130)
        self._interrupted.set()
        self._view.say("stopping (press Ctrl-C again to exit immediately)")

    def _replace_taken(self, names: Any) -> bool:
        replaced = self._plan.ports.replace_taken(names)
        if replaced:
            self._plan.write_ports()
        return replaced

    async def _race(self, work: Coroutine[Any, Any, dict[str, Any] | None]) -> dict[str, Any] | None:
        """The result of the work, unless a service fails first."""
        task = asyncio.create_task(work)
        waiting: set[asyncio.Future[Any]] = {task, self._supervisor.failed}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await self._supervisor.failed
        return task.result()

    async def _work(self) -> dict[str, Any] | None:
        plan, view = self._plan, self._view
        view.say(
            f"starting {plan.redis.version}, {plan.triton_name}, MLflow, deployer, {len(plan.bridges)} bridge(s), recorder, display; "
            f"logs in {plan.state_dir / 'logs'}"
        )
        if os.getuid() == 0:
            view.say("this runs as root, which it need not: what it starts may do anything on this machine")
        if plan.ignored:
            view.say(f"not taken from the environment, see `icestream up --help`: {', '.join(plan.ignored)}")
        if not await self._start_all():
            return None
        triton = await self._triton_version()
        self._supervisor.start("emitter", plan.emitter_service)
        view.say_addresses()
        with view:
            await self._watch()
        view.say("uploading the remaining results to MLflow")
        await self._supervisor.stop("emitter", "challenger", *plan.bridges)
        await self._supervisor.stop("recorder")
        return await asyncio.to_thread(self._figures, triton)

    async def _start_all(self) -> bool:
        """Start the servers, then what depends on each; False if Ctrl-C came first."""
        plan, supervisor = self._plan, self._supervisor
        plan.write_ports()
        await asyncio.to_thread(plan.triton.install_backends)
        for name, make in (
            ("redis", plan.redis_service),
            ("triton", plan.triton_service),
            ("mlflow", plan.mlflow_service),
        ):
            supervisor.start(name, make)
        if not await self._ready("redis", "Redis", self._probe_of_this_redis):
            return False
        try:
            await asyncio.to_thread(self._probe.begin)
        except RedisError as error:
            raise LauncherError(f"Redis has stopped responding during the start: {error}") from None
        if not await self._ready("triton", "Triton", lambda: server_version(plan.triton_url) is not None):
            return False
        if not await self._ready("mlflow", "MLflow", self._create_experiment):
            return False
        # Before a bridge, which may have to ask for a version of an earlier session.
        supervisor.start("deployer", plan.deployer_service)
        for name in plan.bridges:
            supervisor.start(name, lambda name=name: plan.bridge_service(name))  # type: ignore[misc]
        if not await self._ready("bridge", "a bridge", self._bridge_works):
            return False
        supervisor.start("challenger", plan.challenger_service)
        supervisor.start("recorder", plan.recorder_service)
        supervisor.start("display", plan.display_service)
        return await self._ready("display", "the live page", lambda: answers(f"{plan.display_url}/health"))

    def _probe_of_this_redis(self) -> bool:
        self._probe = Probe(self._plan)  # its port may have changed
        return self._probe.ping()

    def _bridge_works(self) -> bool:
        tritons = self._probe.tritons()
        if tritons.get("wrong"):
            reasons = re.findall(r'"reason": ("(?:[^"\\]|\\.)*")', self._supervisor.tail("bridge"))
            raise LauncherError(json.loads(reasons[-1]) if reasons else "the bridge does not use the served model")
        return tritons.get("proved", 0) > 0

    def _create_experiment(self) -> bool:
        """Create the experiment, so that its address is known before the recorder has results."""
        if not answers(f"{self._plan.mlflow_url}/api/2.0/mlflow/experiments/get?experiment_id=0"):
            return False
        with suppress(MlflowException, RequestException):
            client = MlflowClient(self._plan.mlflow_url)
            found = client.get_experiment_by_name(EXPERIMENT)
            self._plan.experiment_id = (
                found.experiment_id if found else client.create_experiment(EXPERIMENT, tags=EXPERIMENT_TAGS)
            )
            return True
        return False

    async def _triton_version(self) -> str:
        """Triton's own version; it was ready a moment ago, but may be killed at any time."""
        while not self._interrupted.is_set():
            if (found := await asyncio.to_thread(server_version, self._plan.triton_url)) is not None:
                return found
            await asyncio.sleep(0.2)
        return "unknown"

    async def _ready(self, service: str, words: str, check: Callable[[], bool]) -> bool:
        """Wait until a service listens on its ports and passes a check; False if Ctrl-C came first."""
        began = told = time.monotonic()
        while not (self._supervisor.listens(service) and await asyncio.to_thread(check)):
            if self._interrupted.is_set():
                return False
            if time.monotonic() - told > STILL_S:
                told = time.monotonic()
                said = self._supervisor.tail(service).splitlines()
                self._view.say(
                    f"  still waiting for {words} ({told - began:.0f} s); its log ends: {said[-1] if said else 'nothing'}"
                )
            await asyncio.sleep(0.1)
        self._plan.ports.fix(self._supervisor.port_names(service))
        self._view.say(f"  {words} is ready ({time.monotonic() - began:.1f} s)")
        return True

    async def _watch(self) -> None:
        """Show the stream until all events of the session are reconstructed and recorded, or a stop is requested."""
        wanted, drain_until, view = self._plan.options.events, None, self._view
        while True:
            # Before the status is read, which so includes the emitter's last event.
            ended = self._supervisor.done("emitter") or drain_until is not None
            status = await asyncio.to_thread(self._probe.read)
            await asyncio.to_thread(self._supervisor.rotate_logs)
            if status is not None:
                view.show(status)
                over = ended or (wanted is not None and status.emitted >= wanted)
                if over and status.stream.backlog == 0 and status.stream.unrecorded == 0:
                    if wanted is not None and status.emitted < wanted and drain_until is None:
                        view.say(f"the source has ended after {status.emitted} of {wanted} events")
                    view.say("all events are processed")
                    return
            if self._interrupted.is_set() and drain_until is None:
                await self._supervisor.stop("emitter")
                drain_until = time.monotonic() + DRAIN_S
                if status is not None and status.stream.backlog:
                    view.say(f"waiting {DRAIN_S:.0f} s at most for {status.stream.backlog} events in the stream")
            if drain_until is not None and time.monotonic() > drain_until:
                view.say("stopped with events in the stream; the next `icestream up` continues with them")
                return
            await asyncio.sleep(POLL_S)

    def _figures(self, triton: str) -> dict[str, Any] | None:
        plan = self._plan
        try:
            counts = self._probe.counts()
        except RedisError as error:
            self._view.say(
                f"no report: Redis does not answer ({error}); what it holds is in {plan.state_dir / 'redis'}"
            )
            return None
        rows, runs = self._recorded(counts.latest)
        figures = report(counts, rows, plan.max_pulses)
        options = plan.options
        figures |= {
            "mlflow_run_id": runs[-1] if runs else None,
            "redis": plan.redis.version,
            "triton_version": triton,
            "source": options.source,
            "rate": options.rate,
            "seed": options.seed,
            "restarts": {name: number for name, number in self._supervisor.restarts.items() if number},
        }
        if rows.num_rows:
            sky_map(rows, plan.state_dir / "sky.png")
            opening_angles(rows, plan.state_dir / "opening_angle.png")
        return figures

    def _recorded(self, latest: int) -> tuple[pa.Table, list[str]]:
        """The results of this session in MLflow, up to its latest pass: without those of other runs."""
        plan = self._plan
        try:
            with tempfile.TemporaryDirectory() as folder:
                rows, runs = recorded(plan.mlflow_url, str(plan.run_id), Path(folder))
        except (MlflowException, RequestException, OSError) as error:
            self._view.say(f"MLflow does not answer ({str(error)[:200]}): the report has counts only")
            return SCHEMA.empty_table(), []
        own = pc.and_(pc.greater_equal(rows["run_id"], plan.run_id), pc.less_equal(rows["run_id"], latest))
        return rows.filter(own), runs

    def _finish(self, figures: dict[str, Any]) -> None:
        path = self._plan.options.report
        try:
            write_report(figures, path)
        except OSError as error:
            self._view.say(f"{path} cannot be written ({error.strerror})")
        self._view.summary(figures)


def _stop_order(names: list[str]) -> list[list[str]]:
    """What writes is stopped before what it writes to."""
    servers = [name for name in names if name in ("triton", "mlflow", "redis")]
    return [
        ["emitter"],
        [name for name in names if name == "challenger" or name.startswith("bridge")],
        ["recorder", "display", "deployer"],
        servers,
    ]
