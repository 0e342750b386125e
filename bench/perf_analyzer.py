"""NVIDIA's perf_analyzer: fetched from the last wheel that carries a binary for older systems.

python -m bench.perf_analyzer                   # puts it into this environment's bin folder
"""

import csv
import ctypes.util
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

from tritonserver.debian import fetch_debian_package

WHEEL = "tritonclient==2.51.0"
CUDA_RUNTIME = "nvidia-cuda-runtime-cu12==12.9.79"
WINDOW_EVENTS = 1200  # of each of the three windows that perf_analyzer compares
BIN = Path(sysconfig.get_path("scripts"))


def install() -> Path:
    """The command, installed if it is not there. Needs PyPI and Debian's packages the first time."""
    command, folder = BIN / "perf_analyzer", BIN.parent / "perf_analyzer"
    if command.exists():
        return command
    folder.mkdir(exist_ok=True)
    for wheel, platform in ((WHEEL, "manylinux1_x86_64"), (CUDA_RUNTIME, "manylinux2014_x86_64")):
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*pip, "--platform", platform, "--dest", str(folder), wheel], check=True)
    for path in folder.glob("*.whl"):
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                if member.endswith("/bin/perf_analyzer") or "/libcudart.so" in member:
                    (folder / Path(member).name).write_bytes(archive.read(member))
        path.unlink()
    if ctypes.util.find_library("b64") is None:
        fetch_debian_package("libb64-0d", folder / "debian")
        shutil.copy(next((folder / "debian").rglob("libb64.so.0d")), folder)
        shutil.rmtree(folder / "debian")
    (folder / "perf_analyzer").chmod(0o755)
    command.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH="{folder}:$LD_LIBRARY_PATH" exec "{folder}/perf_analyzer" "$@"\n')
    command.chmod(0o755)
    return command


def throughput(model: str, url: str, data: Path, batch: int, concurrency: int, folder: Path) -> float:
    """Events/s that perf_analyzer measures with a file of events."""
    result = folder / "perf_analyzer.csv"
    arguments = ["-m", model, "-i", "grpc", "-u", url, "--input-data", str(data), "-b", str(batch)]
    arguments += ["--concurrency-range", str(concurrency), "--measurement-mode", "count_windows"]
    arguments += ["--measurement-request-count", str(max(WINDOW_EVENTS // batch, 1)), "--stability-percentage", "50"]
    done = subprocess.run([str(install()), *arguments, "-f", str(result)], capture_output=True, text=True)
    if not result.exists():
        raise RuntimeError(f"perf_analyzer measured nothing:\n{done.stdout}\n{done.stderr}")
    with open(result) as file:
        rate = float(next(csv.DictReader(file))["Inferences/Second"])
    result.unlink()
    return rate


if __name__ == "__main__":
    print(install())
