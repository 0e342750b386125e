"""What a person at the terminal sees: a live table, a progress bar, and a summary at the end."""

import shlex
import time
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from launcher.plan import Plan
from launcher.report import is_whole
from launcher.status import SessionStatus
from launcher.supervisor import Supervisor
from tritonserver.process import HOST

LINE_S = 5.0  # between two lines where the output is no terminal


class View:
    """Shows a session. Use as a context manager while it runs."""

    def __init__(self, console: Console, plan: Plan, supervisor: Supervisor):
        self._console, self._plan, self._supervisor = console, plan, supervisor
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._previous: SessionStatus | None = None
        self._rates = (0.0, 0.0)  # events/s in, out
        self._printed_s = 0.0

    def __enter__(self) -> "View":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, highlight=False, soft_wrap=True)

    def say_addresses(self) -> None:
        """Where to look, for an output without the live table."""
        if not self._live:
            self.say(self._addresses())

    def show(self, status: SessionStatus) -> None:
        """The state of the stream now."""
        before = self._previous
        if before is None or status.when_s - before.when_s > 1:
            if before is not None:
                span = status.when_s - before.when_s
                self._rates = ((status.emitted - before.emitted) / span, (status.stored - before.stored) / span)
            self._previous = status
        if self._live:
            self._live.update(self._table(status))
        elif time.monotonic() - self._printed_s > LINE_S:
            self._printed_s = time.monotonic()
            latency = f", latency {status.latency_s[0] * 1e3:.0f} ms" if status.latency_s else ""
            self.say(
                f"  {status.emitted} emitted, {status.stored} reconstructed ({self._rates[1]:.0f}/s), "
                f"backlog {status.stream.backlog}{latency}"
            )

    def _table(self, status: SessionStatus) -> RenderableType:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim")
        grid.add_column(justify="right")
        grid.add_column(style="dim")
        grid.add_column(justify="right")
        latency, angles_deg = status.latency_s, status.angles_deg
        angle = "/".join(f"{angles_deg[by]:.1f}°" for by in ("network", "linefit") if by in angles_deg)
        grid.add_row("emitted", f"{status.emitted}", "in", f"{self._rates[0]:.0f} events/s")
        grid.add_row("reconstructed", f"{status.stored}", "out", f"{self._rates[1]:.0f} events/s")
        grid.add_row(
            "backlog", f"{status.stream.backlog}", "latency p50", f"{latency[0] * 1e3:.0f} ms" if latency else "–"
        )
        grid.add_row("rejected", f"{status.rejected}", "latency p99", f"{latency[1] * 1e3:.0f} ms" if latency else "–")
        grid.add_row(
            "not yet recorded", f"{status.stream.unrecorded}", "mean opening angle, network/LineFit", angle or "–"
        )
        services = Text()
        for name, restarts in self._supervisor.restarts.items():
            up = self._supervisor.running(name)
            again = f" (restarted {restarts}×)" if restarts else ""
            services.append(f"● {name}{again}  ", style="green" if up else "red" if name != "emitter" else "dim")
        body: list[RenderableType] = [grid]
        if wanted := self._plan.options.events:
            through = min(status.stored + status.rejected, wanted)
            progress = Table.grid(padding=(0, 2))
            progress.add_row(ProgressBar(total=wanted, completed=through, width=60), f"{through} of {wanted}")
            body.append(progress)
        body += [services, Text(self._addresses(), style="dim")]
        return Panel(Group(*body), title="icestream", subtitle="Ctrl-C to stop", width=84)

    def _addresses(self) -> str:
        """Where to look."""
        plan, port = self._plan, self._plan.ports
        return (
            f"live page  {plan.display_url}   REST {plan.display_url}/v1/openapi.json\n"
            f"MLflow     {plan.mlflow_page}\n"
            f"Triton     gRPC {HOST}:{port['triton_grpc']}   metrics http://{HOST}:{port['triton_metrics']}/metrics\n"
            f"Redis      {plan.redis_url}\n"
            f"/metrics   emitter :{port['emitter_metrics']}  bridge :{port['bridge_metrics']}  "
            f"recorder :{port['recorder_metrics']}  display :{port['display_metrics']}  deployer :{port['deployer_metrics']}  "
            f"challenger :{port['challenger_metrics']}"
        )

    def summary(self, figures: dict[str, Any]) -> None:
        """The end of a session."""
        plan = self._plan
        self._console.print(summary(figures))
        self.say(f"report       {plan.options.report}")
        if figures["recorded"]:
            for name in ("sky.png", "opening_angle.png"):
                self.say(f"picture      {plan.state_dir / name}")
        if figures["mlflow_run_id"]:
            folder = (
                ""
                if plan.options.state_dir.name == ".icestream"
                else f" --state-dir {shlex.quote(str(plan.options.state_dir))}"
            )
            self.say(f"MLflow       icestream mlflow{folder}   (opens this run again)")


def summary(figures: dict[str, Any]) -> RenderableType:
    """The report as a panel."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    whole = is_whole(figures)
    counts = f"{figures['reconstructed']} of {figures['emitted']} events, {figures['rejected']} rejected, {figures['lost']} lost, {figures['duplicated']} duplicated"
    if figures["repeated"]:
        counts += f"; {figures['repeated']} came with the run_id and event_id of another and have its result"
    if figures["left_in_stream"]:
        counts += f"; {figures['left_in_stream']} are still in the stream"
    if figures["recorded"] < figures["reconstructed"]:
        counts += f"; only {figures['recorded']} are in MLflow, of which what follows is: the next `icestream up` uploads the others"
    if figures["recorded_twice"]:
        counts += f"; {figures['recorded_twice']} results are in MLflow twice"
    if figures["forgotten"]:
        counts += f"; of {figures['forgotten']} nothing is known: Redis was emptied while the stream ran"
    table.add_row("reconstructed", Text(counts, style="green" if whole else "bold red"))
    if figures["latency_seconds"]:
        latency = figures["latency_seconds"]
        table.add_row("rate", f"{figures['events_per_second']:.0f} events/s")
        table.add_row(
            "latency",
            f"p50 {latency['p50'] * 1e3:.0f} ms, p95 {latency['p95'] * 1e3:.0f} ms, p99 {latency['p99'] * 1e3:.0f} ms from emitted to stored",
        )
        table.add_row(
            "batches",
            f"{figures['mean_batch_size']:.1f} events on average, {100 * figures['padding_waste']:.0f} % of the pulses are padding",
        )
    if angle := figures["opening_angle_deg"]:
        guess = figures["linefit_opening_angle_deg"] or {"mean": float("nan"), "median": float("nan")}
        table.add_row(
            "opening angle",
            f"mean {angle['mean']:.1f}°, median {angle['median']:.1f}°   (LineFit {guess['mean']:.1f}°, {guess['median']:.1f}°)",
        )
        for kind, values in figures["by_kind_deg"].items():
            table.add_row("", f"{kind}: mean {values['mean']:.1f}°, median {values['median']:.1f}°")
        held = figures["within_radius"]
        table.add_row(
            "radii", f"the 50 % radius holds {held['50']:.0%} of the events, the 90 % radius {held['90']:.0%}"
        )
        table.add_row("score", f"{figures['score_radians']:.4f} (mean angle in radians, as the competition counts)")
    elif figures["recorded"]:
        truth = figures["truth"]
        reason = truth.removeprefix("not known: ") if truth.startswith("not known: ") else "no event has a truth"
        table.add_row("score", f"not known, because {reason}")
    table.add_row("served by", f"Triton {figures['triton_version']}, {figures['redis']}")
    return Panel(table, title="session", width=100)
