"""The state folder of `icestream up` is its caller's alone."""

import os
import stat
from pathlib import Path

import pytest

from launcher.errors import LauncherError
from launcher.state import RedisUsers, open_state_dir, secret


def test_it_is_the_callers_alone(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    open_state_dir(folder).close()
    folder.chmod(0o755)  # as an earlier version left it
    open_state_dir(folder).close()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_that_is_for_other_things_stays_as_it_is(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    project.chmod(0o755)
    (project / "venv").symlink_to("/usr")
    open_state_dir(project).close()
    assert stat.S_IMODE(project.stat().st_mode) == 0o755


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    folder, target = tmp_path / "state", tmp_path / "precious"
    folder.mkdir()
    target.write_text("content")
    (folder / "lock").symlink_to(target)
    with pytest.raises(LauncherError, match="lock is a symbolic link"):
        open_state_dir(folder)
    (folder / "lock").unlink()
    (folder / "redis-users").mkdir()
    (folder / "redis-users" / "users.acl").symlink_to(target)
    with pytest.raises(LauncherError, match=r"users\.acl is a symbolic link"):
        open_state_dir(folder)
    assert target.read_text() == "content"


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770])
def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "state"
    (folder / "debian" / "usr" / "lib").mkdir(parents=True)  # where a library would be loaded from
    folder.chmod(mode)
    with pytest.raises(LauncherError, match="others may write to"):
        open_state_dir(folder)


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    folder, link = tmp_path / "state", tmp_path / "link"
    folder.mkdir()
    os.chown(folder, 12345, 12345)
    link.symlink_to(folder)
    for path in (folder, link):
        with pytest.raises(LauncherError, match="belongs to another user"):
            open_state_dir(path)


def test_secrets_are_made_once_and_are_for_the_callers_eyes(tmp_path: Path) -> None:
    users = RedisUsers(tmp_path / "users", ["emitter", "bridge"])
    file = users.password_file("emitter")
    before = file.read_text()
    RedisUsers(tmp_path / "users", ["emitter", "bridge"])
    assert file.read_text() == before != users.password_file("bridge").read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert before not in users.acl_file.read_text()
    file.chmod(0o644)
    secret(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (tmp_path / "key.part").symlink_to(tmp_path / "elsewhere")
    secret(tmp_path / "key")
    assert not (tmp_path / "elsewhere").exists()
