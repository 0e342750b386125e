"""The state folder of `icestream up`: it belongs to the caller alone, and one session uses it at a time."""

import fcntl
import json
import os
import secrets
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from icestream.streams.users import acl_file
from launcher.errors import LauncherError
from launcher.ports import DEFAULT_PORTS
from tritonserver.process import HOST

CURE = "give another --state-dir"
OURS = (
    "lock", "ports.json", "pids.json", "report.json", "triton-key", "redis-users", "redis", "mlflow", "models", "logs", "spool", "triton",
    "debian",
)  # fmt: skip


def open_state_dir(state_dir: Path) -> Any:
    """Make or check the folder, and keep other sessions out of it until the returned file is closed.

    What others have put there would be written to, loaded as a library, or read by everybody: a folder that is not the caller's,
    that others may write to, or in which a name of ours is a symbolic link is refused.

    Raises:
        LauncherError: with the cause and the cure.
    """
    try:
        made = not state_dir.exists()
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check(state_dir)
        if made or (state_dir / "lock").exists():  # not a folder that is for other things, too
            state_dir.chmod(0o700)
        lock = open(os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return lock
    except BlockingIOError:
        raise LauncherError(f"another `icestream up` uses {state_dir}: stop it, or {CURE}") from None
    except OSError as error:
        raise LauncherError(f"{state_dir} cannot be used ({error.strerror}): {CURE}") from None


def _check(state_dir: Path) -> None:
    for path in {state_dir, Path(os.path.realpath(state_dir))}:
        if path.lstat().st_uid != os.getuid():
            raise LauncherError(f"{path} belongs to another user: {CURE}")
    if stat.S_IMODE(state_dir.stat().st_mode) & (stat.S_IWGRP | stat.S_IWOTH):
        raise LauncherError(f"others may write to {state_dir}: look at what is in it and chmod 700 it, or {CURE}")
    for path in (*(state_dir / name for name in OURS), *state_dir.glob("redis-users/*")):
        if path.is_symlink():
            raise LauncherError(f"{path} is a symbolic link, which is not followed: remove it, or {CURE}")


def secret(file: Path) -> str:
    """The content of a file that its owner alone may read, made once."""
    if not file.exists():
        _write_private(file, secrets.token_urlsafe())
    file.chmod(0o600)
    return file.read_text()


def _write_private(file: Path, text: str) -> None:
    part = file.with_name(f"{file.name}.part")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as new:
        new.write(text)
    part.rename(file)


class RedisUsers:
    """The users of a session's Redis, with a password file each.

    Args:
        folder: of these files, and of the server's ACL file.
    """

    def __init__(self, folder: Path, names: Iterable[str]):
        folder.mkdir(mode=0o700, exist_ok=True)
        self.acl_file = folder / "users.acl"
        self._folder = folder
        _write_private(self.acl_file, acl_file({name: secret(self.password_file(name)) for name in names}))

    def password_file(self, name: str) -> Path:
        return self._folder / f"{name}.password"


def redis_of_session(state_dir: Path) -> tuple[str, str | None]:
    """Address and password of the Redis of the session that runs in a state dir; the usual address if none has run there."""
    address = f"{HOST}:{port_of_session(state_dir, 'redis')}"
    password = state_dir / "redis-users" / "admin.password"
    return (f"redis://admin@{address}", password.read_text()) if password.exists() else (f"redis://{address}", None)


def port_of_session(state_dir: Path, name: str) -> int:
    """A port of the session that runs in a state dir; the usual one if none has run there."""
    with suppress(OSError, ValueError, KeyError):
        return int(json.loads((state_dir / "ports.json").read_text())[name])
    return DEFAULT_PORTS[name]
