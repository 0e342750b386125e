"""Keeps processes running, and leaves none behind.

Each part runs in a process group of its own. What dies is started again, with a growing pause; what dies over and over is
given up on. A watchdog process kills all groups if this process disappears.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

RESTART_S = (0.2, 5.0)  # first and longest pause before a restart
LIVED_S = 10.0  # a part that ran so long is thought to work
MAX_DEATHS = 5  # in a row, each after less than that
TAIL_LINES = 12


class PartFailed(Exception):
    """A part does not stay up; the message names it and shows the end of its log."""


@dataclass(frozen=True)
class Part:
    """A program to run."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    grace_s: float = 10.0  # from SIGTERM to SIGKILL
    ends: bool = False  # exit status 0 means it is done


class Supervisor:
    """The running parts.

    Args:
        state_dir: holds logs/NAME.log and pids.json.
    """

    def __init__(self, state_dir: Path):
        self._logs, self._pids_file = state_dir / "logs", state_dir / "pids.json"
        self._logs.mkdir(parents=True, exist_ok=True)
        self._pids: dict[str, int] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self.restarts: dict[str, int] = {}
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchdog = subprocess.Popen(
            [sys.executable, "-m", "launcher.watchdog"], stdin=subprocess.PIPE, start_new_session=True, text=True
        )
        self._write_pids()

    def start(self, part: Part) -> None:
        """Run a part until it is stopped."""
        self.restarts[part.name] = 0
        self._keepers[part.name] = asyncio.create_task(self._keep(part))
        self._keepers[part.name].add_done_callback(self._note_failure)

    def log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def running(self, name: str) -> bool:
        return name in self._pids

    def done(self, name: str) -> bool:
        """A part that ends by itself has done so."""
        return name in self._keepers and self._keepers[name].done()

    async def stop(self, *names: str) -> None:
        """Stop parts: SIGTERM to each, and SIGKILL to its group after its grace."""
        keepers = [self._keepers.pop(name) for name in names if name in self._keepers]
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)

    async def stop_all(self, order: Callable[[list[str]], list[list[str]]]) -> None:
        """Stop everything, one group of `order` after the other, then the watchdog."""
        for names in order(list(self._keepers)):
            await self.stop(*names)
        assert self._watchdog.stdin is not None
        self._watchdog.stdin.close()
        await asyncio.to_thread(self._watchdog.wait)
        self._pids_file.unlink(missing_ok=True)

    async def _keep(self, part: Part) -> None:
        deaths, pause = 0, RESTART_S[0]
        with open(self.log(part.name), "ab") as log:  # noqa: ASYNC230 (a local file, for the child)
            while True:
                began = time.monotonic()
                process = await asyncio.create_subprocess_exec(
                    *part.command,
                    env={**os.environ, **part.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
                self._register(part.name, process.pid)
                try:
                    status = await process.wait()
                except asyncio.CancelledError:
                    await self._end(process, part.grace_s)
                    raise
                finally:
                    _kill_group(process.pid)  # what a killed process has left of its own children
                    self._forget(part.name, process.pid)
                if part.ends and status == 0:
                    return
                lived = time.monotonic() - began >= LIVED_S
                deaths, pause = (1, RESTART_S[0]) if lived else (deaths + 1, pause)
                if deaths >= MAX_DEATHS:
                    raise PartFailed(
                        f"{part.name} does not stay up (exit status {status}); the end of {self.log(part.name)}:\n{self._tail(part.name)}"
                    )
                self.restarts[part.name] += 1
                await asyncio.sleep(pause)
                pause = min(2 * pause, RESTART_S[1])

    async def _end(self, process: asyncio.subprocess.Process, grace_s: float) -> None:
        with suppress(ProcessLookupError):
            process.terminate()
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), grace_s)

    def _note_failure(self, keeper: "asyncio.Task[None]") -> None:
        if not keeper.cancelled() and (error := keeper.exception()) and not self.failed.done():
            self.failed.set_exception(error)

    def _tail(self, name: str) -> str:
        return "\n".join(self.log(name).read_text(errors="replace").splitlines()[-TAIL_LINES:])

    def _register(self, name: str, pid: int) -> None:
        self._tell_watchdog(f"+{pid}")
        self._pids[name] = pid
        self._write_pids()

    def _forget(self, name: str, pid: int) -> None:
        self._tell_watchdog(f"-{pid}")
        self._pids.pop(name, None)
        self._write_pids()

    def _tell_watchdog(self, line: str) -> None:
        assert self._watchdog.stdin is not None
        self._watchdog.stdin.write(line + "\n")
        self._watchdog.stdin.flush()

    def _write_pids(self) -> None:
        part = self._pids_file.with_suffix(".part")
        part.write_text(json.dumps(self._pids, indent=2) + "\n")
        part.replace(self._pids_file)


def _kill_group(leader: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
