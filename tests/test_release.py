"""A release: a wheel that runs the stream outside a checkout."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

import icestream
from tests.waiting import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    copy = folder / "checkout"  # setuptools builds in the folder itself
    left_out = shutil.ignore_patterns(".*", "tests", "docs", "build", "dist", "*.egg-info", "__pycache__", "shared")
    shutil.copytree(ROOT, copy, ignore=left_out)
    build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", folder, copy]
    subprocess.run(build, check=True, capture_output=True)
    [made] = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", made], check=True, capture_output=True)
    return made


def test_the_version_stands_in_one_place() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == icestream.__version__
    released = re.findall(r"^## \[(\d[\w.]*)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[0] == icestream.__version__


def test_the_wheel_holds_what_the_stream_needs(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    needed = [
        "model_repository/icemix/1/model.onnx", "model_repository/icemix/config.pbtxt", "export/weights/small.safetensors",
        "dashboards/grafana/json/stream.json", "dashboards/prometheus/rules.yml", "icestream/streams/users.acl",
        "display/static/page.js", "display/templates/index.html", "recorder/reference.json",
        *(f"icestream/streams/scripts/{path.name}" for path in (ROOT / "icestream/streams/scripts").glob("*.lua")),
        *(f"icestream-{icestream.__version__}.dist-info/licenses/{name}" for name in ("LICENSE", "NOTICE")),
    ]  # fmt: skip
    assert set(needed) <= names
    assert not [name for name in names if name.startswith(("tests/", "shared/"))]


def test_the_stream_runs_outside_a_checkout(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        content.extractall(tmp_path / "installed")
    command = [sys.executable, "-m", "launcher", "up", "--events", "20", "--rate", "max"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    (tmp_path / "elsewhere").mkdir()
    done = subprocess.run(
        command, cwd=tmp_path / "elsewhere", env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "elsewhere" / ".icestream" / "report.json").read_text())["reconstructed"] == 20
    assert str(ROOT) not in (tmp_path / "elsewhere" / ".icestream" / "logs" / "bridge.log").read_text()
