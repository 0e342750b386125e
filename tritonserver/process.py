"""Starts a server on free ports of this machine, and chooses again if another program takes one of them meanwhile."""

import errno
import os
import random
import re
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http.client import HTTPException
from itertools import islice
from pathlib import Path

HOST = "127.0.0.1"
TRIES = 20
PORTS = range(20_000, 32_768)  # Linux gives 32768 to 60999 to outgoing connections


class ServerFailed(RuntimeError):
    """The server ended before it was ready; the message has the end of its log."""


def start_server(
    command: Callable[[Sequence[int]], Sequence[str]],
    ports: int,
    *,
    ready: Callable[[Sequence[int]], bool],
    log: Path,
    environment: Mapping[str, str],
    within_s: float = 120,
) -> tuple["subprocess.Popen[bytes]", list[int]]:
    """Start a server in a process group of its own and wait until it is ready; returns it and its ports.

    Args:
        command: the command line for given ports.
        ports: how many it listens on.
        ready: whether the server on these ports is ready.
        environment: beside this process's own.

    Raises:
        ServerFailed: it ended although its ports were free, or is not ready in time.
    """
    for _ in range(TRIES):
        chosen = free_ports(ports)
        with open(log, "ab") as file:
            process = subprocess.Popen(
                command(chosen), env={**os.environ, **environment}, stdout=file, stderr=file, start_new_session=True
            )
        deadline = time.monotonic() + within_s
        try:
            while process.poll() is None and time.monotonic() < deadline:
                if ready(chosen):
                    return process, chosen
                time.sleep(0.05)
        except BaseException:  # Ctrl-C: the server has a process group of its own and would stay
            stop_server(process)
            raise
        stop_server(process)
        if all(map(is_free, chosen)):
            break
    raise ServerFailed(f"{command([0] * ports)[0]} is not ready: \n{telling_lines(log.read_text(errors='replace'))}")


def telling_lines(log: str, last: int = 12) -> str:
    """The last lines of a server's log, and before them those in which Triton says why it could not load a model."""
    lines = log.splitlines()
    why = [line for line in lines[:-last] if re.search(r"failed to load '.*' version", line)]
    return "\n".join([*(line[:600] for line in why[-2:]), *lines[-last:]])


def stop_server(process: "subprocess.Popen[bytes]") -> None:
    """SIGKILL to the process group of a server."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def answers(url: str) -> bool:
    """Whether an HTTP address answers with success; HTTP proxies are bypassed."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, HTTPException):
        return False


def free_ports(count: int) -> list[int]:
    """Different ports that are free now.

    They lie below those that the kernel gives to outgoing connections: a client that looks for a server that is away would get
    the server's own port sooner or later, be connected to itself, and keep the server from coming back.
    """
    candidates = (port for port in random.sample(PORTS, len(PORTS)) if is_free(port))
    if len(found := list(islice(candidates, count))) < count:
        raise OSError(errno.EADDRNOTAVAIL, f"{HOST} has no free port: is there an IPv4 loopback? (ip address show lo)")
    return found


def is_free(port: int) -> bool:
    """Whether a server could bind this port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
