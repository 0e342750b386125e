"""Each extra of pyproject.toml is enough for its program, in an environment of its own."""

import ast
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.waiting import ROOT

UV = str(Path(sys.executable).with_name("uv"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This package as a wheel, built in a copy of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns(".*", "*.egg-info", "build", "tests", "docs", "model_repository", "weights")
    shutil.copytree(ROOT, folder / "source", ignore=ignored)
    subprocess.run([UV, "build", "--quiet", "--wheel", "--out-dir", str(folder), str(folder / "source")], check=True)
    [path] = folder.glob("*.whl")
    return path


def environment(folder: Path, wheel: Path, extra: str = "") -> str:
    """The Python of a new virtual environment with this package and one extra."""
    python = str(folder / "bin" / "python")
    target = f"icestream[{extra}] @ {wheel.as_uri()}" if extra else str(wheel)
    for command in (
        [UV, "venv", "--quiet", "--python", sys.executable, str(folder)],
        [UV, "pip", "install", "--quiet", "--python", python, target],
    ):
        subprocess.run(command, check=True)
    return python


@pytest.mark.parametrize("process", ["emitter", "bridge", "recorder", "display"])
def test_an_extra_is_enough_for_its_process(tmp_path: Path, wheel: Path, process: str) -> None:
    python = environment(tmp_path / "venv", wheel, process)
    done = subprocess.run([python, "-m", process, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--redis-url" in done.stdout


FOLDERS = ("emitter", "bridge", "recorder", "display", "tritonserver", "launcher", "export", "bench")
# Triton's wheel is installed without its dependencies; TensorRT comes with the machine.
WITHOUT_EXTRA = {"pytriton", "tensorrt", "triton_python_backend_utils"}


def requirements(extra: str) -> set[str]:
    """The distributions that an extra brings, with what they require themselves."""
    found: set[str] = set()
    waiting = [("icestream", extra)]
    while waiting:
        name, chosen = waiting.pop()
        for text in metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": chosen}):
                for other in requirement.extras or {""}:
                    distribution = canonicalize_name(requirement.name)
                    if distribution not in found or (distribution == "icestream" and other not in found):
                        found |= {distribution, other}
                        waiting.append((distribution, other))
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_an_extra_brings_what_its_folder_imports(folder: str) -> None:
    brought, distributions = requirements(folder), metadata.packages_distributions()
    ours = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            for module in {name.split(".")[0] for name in names} - ours - WITHOUT_EXTRA - sys.stdlib_module_names:
                providers = {canonicalize_name(name) for name in distributions[module]}
                assert providers & brought, f"{path.relative_to(ROOT)} imports {module}"


def test_the_shared_package_needs_numpy_and_msgspec_only(tmp_path: Path, wheel: Path) -> None:
    python = environment(tmp_path / "venv", wheel)
    listed = subprocess.run([UV, "pip", "list", "--python", python], check=True, capture_output=True, text=True).stdout
    assert {line.split()[0] for line in listed.splitlines()[2:]} == {"icestream", "msgspec", "numpy"}
    modules = (
        "icestream, icestream.wire, icestream.tensors, icestream.direction, icestream.linefit, icestream.event_json"
    )
    subprocess.run([python, "-c", f"import {modules}"], cwd=tmp_path, check=True)
    # Without its extra, a program names the command that installs it.
    for program, extra in (("bridge", "bridge"), ("launcher", "launcher"), ("recorder", "recorder")):
        done = subprocess.run([python, "-m", program], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 1
        assert f"pip install 'icestream[{extra}]'" in done.stderr
        assert "Traceback" not in done.stderr
    done = subprocess.run([python, ROOT / "export" / "to_onnx.py"], cwd=tmp_path, capture_output=True, text=True)
    assert "pip install 'icestream[export]'" in done.stderr
    assert "Traceback" not in done.stderr
