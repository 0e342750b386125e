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
from pathlib import Path
from typing import Any

from rich.console import Console

from icestream.pictures import opening_angles, sky_map
from icestream.up.plan import HOST, Plan
from icestream.up.report import recorded, report, write_report
from icestream.up.status import Probe, Status, answers
from icestream.up.supervisor import Supervisor
from icestream.up.view import View

LOOK_S = 0.3
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
        for part in [*plan.servers(), *plan.cubes()]:
            self._supervisor.start(part)
        port = plan.port
        ready: list[tuple[str, Callable[[], bool]]] = [
            ("Redis", self._probe.ping),
            ("Triton", lambda: answers(f"http://{HOST}:{port['triton_http']}/v2/health/ready")),
            ("a bridge", lambda: (self._probe.look() is not None) and self._probe.max_pulses() > 0),
            ("MLflow", lambda: answers(f"{plan.mlflow_url}/health")),
        ]
        for name, check in ready:
            began = time.monotonic()
            while not await asyncio.to_thread(check):
                if self._interrupted.is_set():
                    return None
                await asyncio.sleep(0.2)
            view.say(f"  {name} is ready ({time.monotonic() - began:.1f} s)")
        self._probe.look()
        triton = json.loads(await asyncio.to_thread(_get, f"http://{HOST}:{port['triton_http']}/v2"))["version"]
        self._supervisor.start(plan.emitter())
        if not self._console.is_terminal:
            view.say(view.addresses())
        with view:
            emitted, rejected = await self._watch(view)
        max_pulses = self._probe.max_pulses()
        view.say("everything is through; recording the rest in MLflow")
        await self._supervisor.stop("emitter", *plan.bridges)
        await self._supervisor.stop("recorder")
        return await asyncio.to_thread(self._figures, emitted, rejected, max_pulses, triton)

    async def _watch(self, view: View) -> tuple[int, int]:
        """Show the stream until all is through; returns what was emitted and rejected."""
        wanted, drain_until = self._plan.options.events, None
        status = Status(time.monotonic())
        while True:
            if (found := await asyncio.to_thread(self._probe.look)) is not None:
                status = found
            view.show(status, await asyncio.to_thread(self._probe.mean_angles_deg))
            if self._interrupted.is_set() and drain_until is None:
                drain_until = time.monotonic() + DRAIN_S
                await self._supervisor.stop("emitter")
                continue
            over = not self._supervisor.running("emitter") if drain_until else self._emitter_done(status, wanted)
            if (
                over
                and status.backlog == 0
                and status.unrecorded == 0
                and (time.monotonic() - status.when_s) < 2 * LOOK_S + 1
            ):
                return status.emitted, status.rejected
            if drain_until and time.monotonic() > drain_until:
                view.say(
                    f"stopping with {status.backlog} events in the stream; the next `icestream up` goes on with them"
                )
                return status.emitted - status.backlog, status.rejected
            await asyncio.sleep(LOOK_S)

    def _emitter_done(self, status: Status, wanted: int | None) -> bool:
        return (wanted is not None and status.emitted >= wanted) or self._supervisor.done("emitter")

    def _figures(self, emitted: int, rejected: int, max_pulses: int, triton: str) -> dict[str, Any]:
        plan = self._plan
        with tempfile.TemporaryDirectory() as folder:
            rows, runs = recorded(plan.mlflow_url, str(plan.run_id), Path(folder))
        figures = report(rows, emitted, rejected, max_pulses)
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
    return [["emitter"], [name for name in names if name.startswith("bridge")], ["recorder"], servers]


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())
