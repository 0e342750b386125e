"""Keeps processes running, and leaves none behind.

Each service runs in a process group of its own. A service that ends is restarted, with growing pauses; one that ends again and again
ends the session. A watchdog process kills all groups if this process disappears.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from icestream.service.retry import pauses
from tritonserver.process import telling_lines

RESTART_S = (0.2, 5.0)  # first and longest pause before a restart
STABLE_AFTER_S = 10.0  # a service that ran so long works
MAX_RESTARTS = 5  # in a row, each after less than that
MAX_PORT_CHANGES = 20
TAIL_LINES = 12
MAX_LOG_BYTES = 50 * 2**20


class ServiceFailed(Exception):
    """A service keeps exiting; the message names it and shows the end of its log."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """A program to run."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, int]  # it listens on: name → number
    grace_s: float = 10.0  # from SIGTERM to SIGKILL
    ends: bool = False  # exit status 0 means it is done


class Supervisor:
    """The running services.

    Args:
        state_dir: holds logs/NAME.log and pids.json.
        replace_taken: chooses other ports for those of these names that another program holds; returns whether it did.
    """

    def __init__(self, state_dir: Path, replace_taken: Callable[[Iterable[str]], bool]):
        self._replace_taken = replace_taken
        self._logs, self._pids_file = state_dir / "logs", state_dir / "pids.json"
        self._logs.mkdir(parents=True, exist_ok=True)
        self._pids: dict[str, int] = {}
        self._ports: dict[str, Mapping[str, int]] = {}  # of the latest start
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._log_starts: dict[str, int] = {}  # where the log of the latest start begins, bytes
        self.restarts: dict[str, int] = {}
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchdog = _start_watchdog()
        self._write_pids()

    def start(self, name: str, make: Callable[[], Service]) -> None:
        """Run a service until it is stopped; `make` describes it anew for every start, since its ports may have changed."""
        self.restarts[name] = 0
        self._keepers[name] = asyncio.create_task(self._keep(make))
        self._keepers[name].add_done_callback(self._note_failure)

    def log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def running(self, name: str) -> bool:
        return name in self._pids

    def port_names(self, name: str) -> list[str]:
        """The names of the ports of a service that was started."""
        return list(self._ports[name])

    def listens(self, name: str) -> bool:
        """It is the service itself, and no other program, that listens on its ports."""
        ports, listening = set(self._ports.get(name, {}).values()), set()
        for process in psutil.process_iter():
            with suppress(psutil.Error, ProcessLookupError, PermissionError):
                if os.getpgid(process.pid) == self._pids.get(name):
                    listening |= {
                        connection.laddr.port
                        for connection in process.net_connections("tcp")
                        if connection.status == psutil.CONN_LISTEN
                    }
        return name in self._pids and ports <= listening

    def done(self, name: str) -> bool:
        """A service that ends by itself has done so."""
        return name in self._keepers and self._keepers[name].done()

    def rotate_logs(self) -> None:
        """Begin each log that has become too long anew; its content so far is kept once, as NAME.log.1."""
        for path in self._logs.glob("*.log"):
            if path.stat().st_size > MAX_LOG_BYTES:
                with suppress(OSError):  # the disk is full
                    shutil.copyfile(path, path.with_name(f"{path.name}.1"))
                os.truncate(path, 0)  # what writes to it appends
                self._log_starts[path.stem] = 0

    async def stop(self, *names: str) -> None:
        """Stop services: SIGTERM to each, and SIGKILL to its group after its grace."""
        keepers = [self._keepers.pop(name) for name in names if name in self._keepers]
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)

    async def stop_all(self, order: Callable[[list[str]], list[list[str]]]) -> None:
        """Stop everything, one group of `order` after the other, then the watchdog."""
        for names in order(list(self._keepers)):
            await self.stop(*names)
        assert self._watchdog.stdin is not None
        with suppress(BrokenPipeError):
            self._watchdog.stdin.close()
        await asyncio.to_thread(self._watchdog.wait)
        self._pids_file.unlink(missing_ok=True)

    async def _keep(self, make: Callable[[], Service]) -> None:
        deaths, port_changes, waits = 0, 0, pauses(*RESTART_S)
        while True:
            service, began = make(), time.monotonic()
            status = await self._run_once(service)
            if service.ends and status == 0:
                return
            await asyncio.sleep(RESTART_S[0])  # the sockets of children that were killed just now are closed meanwhile
            if port_changes < MAX_PORT_CHANGES and self._replace_taken(service.ports):
                port_changes += 1
                continue
            if time.monotonic() - began >= STABLE_AFTER_S:
                deaths, waits = 0, pauses(*RESTART_S)
            deaths += 1
            if deaths >= MAX_RESTARTS:
                raise ServiceFailed(
                    f"{service.name} keeps exiting (exit status {status}); the end of {self.log(service.name)}:\n"
                    f"{self.tail(service.name)}"
                )
            self.restarts[service.name] += 1
            await asyncio.sleep(next(waits))

    async def _run_once(self, service: Service) -> int:
        """Run a service until it ends; returns its exit status."""
        with open(self.log(service.name), "ab") as log:  # noqa: ASYNC230 (a local file, for the child)
            self._log_starts[service.name] = log.tell()
            process = await asyncio.create_subprocess_exec(
                *service.command,
                env={**os.environ, **service.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._ports[service.name] = service.ports
        self._register(service.name, process.pid)
        try:
            return await process.wait()
        except asyncio.CancelledError:
            await self._end(process, service.grace_s)
            raise
        finally:
            _kill_group(process.pid)  # children that a killed process has left
            self._forget(service.name, process.pid)

    async def _end(self, process: asyncio.subprocess.Process, grace_s: float) -> None:
        with suppress(ProcessLookupError):
            process.terminate()
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), grace_s)

    def _note_failure(self, keeper: "asyncio.Task[None]") -> None:
        if not keeper.cancelled() and (error := keeper.exception()) and not self.failed.done():
            self.failed.set_exception(error)

    def tail(self, name: str) -> str:
        """What the log of the latest start says last, and why a model could not be loaded."""
        with open(self.log(name), errors="replace") as log:
            log.seek(self._log_starts[name])
            return telling_lines(log.read(), TAIL_LINES)

    def _register(self, name: str, pid: int) -> None:
        self._pids[name] = pid
        self._tell_watchdog(f"+{pid}")
        self._write_pids()

    def _forget(self, name: str, pid: int) -> None:
        self._pids.pop(name, None)
        self._tell_watchdog(f"-{pid}")
        self._write_pids()

    def _tell_watchdog(self, line: str) -> None:
        try:
            _write_line(self._watchdog, line)
        except BrokenPipeError:  # it was killed
            self._watchdog.wait()
            self._watchdog = _start_watchdog()
            for pid in self._pids.values():
                _write_line(self._watchdog, f"+{pid}")

    def _write_pids(self) -> None:
        """For people to look at: a full disk is no reason to end what runs."""
        temporary = self._pids_file.with_suffix(".part")
        with suppress(OSError):
            temporary.write_text(json.dumps(self._pids, indent=2) + "\n")
            temporary.replace(self._pids_file)


def _start_watchdog() -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "launcher.watchdog"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, text=True)


def _write_line(process: "subprocess.Popen[str]", line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def _kill_group(leader: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
