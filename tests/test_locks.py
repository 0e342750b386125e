"""What is installed anywhere is in locks/, with hashes and an allowed licence, and fits pyproject.toml."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator

import pytest
from packaging.requirements import Requirement

from tests.waiting import ROOT

LOCKS = {path.stem: path.read_text() for path in (ROOT / "locks").glob("*.lock")}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CURE = "run `make lock`"
FROM_PYTORCH = {"torch"}  # in a build for each kind of card: locks/torch.in


def pinned(text: str) -> dict[str, set[str]]:
    """Versions of each package; there may be one for each system."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, re.MULTILINE):
        found.setdefault(name.lower().replace("_", "-"), set()).add(version)
    return found


def wanted(extra: str | None) -> Iterator[Requirement]:
    """What pyproject.toml asks for, extras of extras included."""
    for line in [*PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] if extra else [])]:
        requirement = Requirement(line)
        if requirement.name == "icestream":
            for other in requirement.extras:
                yield from wanted(other)
        else:
            yield requirement


@pytest.mark.parametrize("name", LOCKS)
def test_every_line_has_hashes(name: str) -> None:
    for line in re.findall(r"^[\w.-]+==.*", LOCKS[name], re.MULTILINE):
        assert line.endswith("\\"), line
    assert LOCKS[name].count("--hash=sha256:") >= len(pinned(LOCKS[name]))


@pytest.mark.parametrize(
    ("name", "extra"),
    [(one, one) for one in ("emitter", "bridge", "deployer", "recorder", "display", "launcher")]
    + [("develops", "dev")],
)
def test_the_lock_is_what_the_project_asks_for(name: str, extra: str) -> None:
    versions = pinned(LOCKS[name])
    for requirement in wanted(extra):
        key = requirement.name.lower().replace("_", "-")
        if key not in FROM_PYTORCH:
            assert versions.get(key), f"{requirement} is not in locks/{name}.lock: {CURE}"
            assert all(map(requirement.specifier.contains, versions[key])), f"{requirement}: {CURE}"


@pytest.mark.parametrize("name", ["emitter", "bridge", "deployer", "recorder", "display", "launcher"])
def test_what_is_shipped_is_what_is_tested(name: str) -> None:
    tested = pinned(LOCKS["develops"])
    assert {key: versions for key, versions in pinned(LOCKS[name]).items() if tested.get(key) != versions} == {}


def test_licences_are_allowed_and_listed() -> None:
    done = subprocess.run([sys.executable, ROOT / "bin" / "licences"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (ROOT / "docs" / "licences.md").read_text(), "run `make licences`"
