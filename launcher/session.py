"""One `icestream up` from start to end."""

import asyncio
import json
import os
import signal
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from rich.console import Console

from icestream.results.pictures import opening_angles, sky_map
from launcher.plan import HOST, Plan
from launcher.report import recorded, report, write_report
from launcher.status import Probe, answers
from launcher.supervisor import Supervisor
from launcher.view import View

LOOK_S = 0.5
DRAIN_S = 20.0  # after Ctrl-C: time for what is in the stream to get through


class Session:
    """Starts the parts, watches the stream, stops the parts, tells what went through."""

    def __init__(self, plan: Plan, console: Console):
        self._plan, self._console = plan, console
        self._probe = Probe(plan)
        self._supervisor = Supervisor(plan.state_dir)
        self._interrupted = asyncio.Event()

    async def run(self) -> int:
        """Run to the end; returns the exit status.

        Raises:
            PartFailed: a part does not stay up.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._interrupt)
        try:
            figures = await self._race(self._work())
        finally:
            await self._supervisor.stop_all(_stop_order)
            self._plan.triton.clean_up()
        if figures is None:
            return 130
        self._tell(figures)
        return 0 if figures["lost"] == 0 and figures["duplicated"] == 0 else 1

    def _interrupt(self) -> None:
        if self._interrupted.is_set():  # the second time: at once. The watchdog cleans up.
            os._exit(130)
        self._interrupted.set()

    async def _race(self, work: Any) -> Any:
        """The work's result, unless a part fails first."""
        task = asyncio.create_task(work)
        await asyncio.wait({task, self._supervisor.failed}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await self._supervisor.failed
        return task.result()

    async def _work(self) -> dict[str, Any] | None:
        plan, view = self._plan, View(self._console, self._plan, self._supervisor)
        view.say(
            f"starting {plan.redis.version}, Triton, MLflow, {len(plan.bridges)} bridge(s), recorder; logs in {plan.state_dir / 'logs'}"
        )
        plan.write_addresses()
        for part in plan.servers():
            self._supervisor.start(part)
        if not await self._ready("Redis", self._probe.ping, view):
            return None
        self._probe.forget_models()
        self._probe.look()
        for part in plan.cubes():
            self._supervisor.start(part)
        port = plan.port
        parts: list[tuple[str, Callable[[], bool]]] = [
            ("Triton", lambda: answers(f"http://{HOST}:{port['triton_http']}/v2/health/ready")),
            ("a bridge", lambda: self._probe.max_pulses() > 0),
            ("MLflow", lambda: answers(f"{plan.mlflow_url}/api/2.0/mlflow/experiments/get?experiment_id=0")),
        ]
        for name, check in parts:
            if not await self._ready(name, check, view):
                return None
        triton = await asyncio.to_thread(_triton_version, f"http://{HOST}:{port['triton_http']}/v2")
        self._supervisor.start(plan.emitter())
        if not self._console.is_terminal:
            view.say(view.addresses())
        with view:
            await self._watch(view)
        max_pulses = self._probe.max_pulses()
        view.say("recording the rest in MLflow")
        await self._supervisor.stop("emitter", *plan.bridges)
        await self._supervisor.stop("recorder")
        return await asyncio.to_thread(self._figures, max_pulses, triton)

    async def _ready(self, name: str, check: Callable[[], bool], view: View) -> bool:
        """Wait for a part; False if Ctrl-C came first."""
        began = time.monotonic()
        while not await asyncio.to_thread(check):
            if self._interrupted.is_set():
                return False
            await asyncio.sleep(0.2)
        view.say(f"  {name} is ready ({time.monotonic() - began:.1f} s)")
        return True

    async def _watch(self, view: View) -> None:
        """Show the stream until all is through."""
        wanted, drain_until = self._plan.options.events, None
        while True:
            ended = self._supervisor.done("emitter") or (
                drain_until is not None
            )  # before the look, which so sees its last event
            status = await asyncio.to_thread(self._probe.look)
            if status is not None:
                view.show(status, await asyncio.to_thread(self._probe.mean_angles_deg))
                over = ended or (wanted is not None and status.emitted >= wanted)
                if over and status.backlog == 0 and status.unrecorded == 0:
                    if wanted is not None and status.emitted < wanted and drain_until is None:
                        view.say(f"the source has ended after {status.emitted} of {wanted} events")
                    view.say("everything is through")
                    return
            if self._interrupted.is_set() and drain_until is None:
                await self._supervisor.stop("emitter")
                drain_until = time.monotonic() + DRAIN_S
            if drain_until and time.monotonic() > drain_until:
                view.say("stopping with events in the stream; the next `icestream up` goes on with them")
                return
            await asyncio.sleep(LOOK_S)

    def _figures(self, max_pulses: int, triton: str) -> dict[str, Any]:
        plan = self._plan
        emitted, rejected, left = self._probe.counts()
        with tempfile.TemporaryDirectory() as folder:
            rows, runs = recorded(plan.mlflow_url, str(plan.run_id), Path(folder))
        rows = rows.filter(pc.greater_equal(rows["run_id"], plan.run_id))  # not what an earlier session has left
        figures = report(rows, emitted, rejected, left, max_pulses)
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

    def _tell(self, figures: dict[str, Any]) -> None:
        plan = self._plan
        path = plan.options.report
        write_report(figures, path)
        View(self._console, plan, self._supervisor).summary(figures)
        self._console.print(f"report       {path}", highlight=False, soft_wrap=True)
        if figures["reconstructed"]:
            for name in ("sky.png", "opening_angle.png"):
                self._console.print(f"picture      {plan.state_dir / name}", highlight=False, soft_wrap=True)
        store = f"sqlite:///{plan.state_dir / 'mlflow' / 'mlflow.db'}"
        self._console.print(
            f"MLflow       {plan.mlflow} server --backend-store-uri {store} --artifacts-destination {plan.state_dir / 'mlflow' / 'artifacts'}",
            highlight=False,
            soft_wrap=True,
        )


def _stop_order(names: list[str]) -> list[list[str]]:
    """Who is stopped after whom: what writes before what it writes to."""
    servers = [name for name in names if name in ("triton", "mlflow", "redis")]
    return [["emitter"], [name for name in names if name.startswith("bridge")], ["recorder", "display"], servers]


def _triton_version(url: str) -> str:
    """What Triton says of itself; it has just said that it is ready, but it may be killed at any time."""
    while True:
        with suppress(OSError, HTTPException), urllib.request.urlopen(url, timeout=5) as answer:
            return str(json.load(answer)["version"])
        time.sleep(0.2)
