"""Triton's server from the `nvidia-pytriton` wheel, with ONNX Runtime as a backend: its command line and what it needs."""

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tritonserver.debian import fetch_debian_package
from tritonserver.errors import MissingDependency

WHEEL = "nvidia-pytriton"
SHARED_MEMORY_BYTES = 32 * 2**20  # free in /dev/shm: instances take a few MB, and more for large batches
RESTRICTED = "model-repository,shared-memory,trace,logging"  # what has a key
PLAIN = re.compile(r"[\w./+@%,:=-]+")  # a path that a shell takes as one word


@dataclass(frozen=True, kw_only=True)
class ModelControlOptions:
    """Models that are loaded and unloaded while the server runs.

    Attributes:
        first: the model that is loaded at the start, from the server's other repository.
        repository: of the models that are loaded later.
        key: that whoever loads models has to know: loading is running code.
    """

    first: str
    repository: Path
    key: str


class TritonServer:
    """The server, its libraries and its backends.

    Args:
        state_dir: for the backends, and a library that may have to be fetched.

    Raises:
        MissingDependency: something the server needs is missing; the message names it and the fix.
    """

    def __init__(self, state_dir: Path):
        if sys.platform != "linux" or platform.machine() != "x86_64":
            raise MissingDependency(
                f"Triton's server runs on Linux x86_64; this is {sys.platform} {platform.machine()}: use docker compose"
            )
        spec = importlib.util.find_spec("pytriton")
        if spec is None or not spec.submodule_search_locations:
            raise MissingDependency(
                f"the wheel {WHEEL} is not installed: pip install --no-deps {WHEEL}, or run make up"
            )
        package = Path(spec.submodule_search_locations[0])
        self._server = package / "tritonserver"
        self._libraries = [package.parent / "nvidia_pytriton.libs", libpython_folder(state_dir)]
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        self._stub = self._server / "python_backend_stubs" / version / "triton_python_backend_stub"
        if not self._stub.exists():
            raise MissingDependency(
                f"{WHEEL} {importlib.metadata.version(WHEEL)} has no stub for Python {version}: use Python 3.11 or 3.12"
            )
        if (free := shutil.disk_usage("/dev/shm").free) < SHARED_MEMORY_BYTES:
            raise MissingDependency(
                f"/dev/shm has {free / 2**20:.0f} MB free, and Triton's Python backend needs {SHARED_MEMORY_BYTES >> 20}: mount -o "
                "remount,size=256m /dev/shm, or in a container --shm-size 256m"
            )
        self._backends = state_dir / "triton" / "backends"
        self._aliases: tempfile.TemporaryDirectory[str] | None = None
        self._shared_memory = (
            f"icestream-{os.getpid()}-"  # prefix of the regions through which servers and instances talk
        )

    def install_backends(self) -> None:
        """Put the backends where the server finds them."""
        for name in ("python", "onnxruntime"):  # new files: a process that still runs keeps the old ones
            shutil.rmtree(self._backends / name, ignore_errors=True)
        shutil.copytree(self._server / "backends" / "python", self._backends / "python")
        shutil.copy2(self._stub, self._backends / "python")
        (self._backends / "onnxruntime").mkdir()
        shutil.copy(Path(__file__).with_name("onnxruntime_backend.py"), self._backends / "onnxruntime" / "model.py")

    def command(
        self,
        repository: Path,
        host: str,
        *,
        grpc: int,
        metrics: int,
        http: int | None = None,
        on_card: bool = False,
        control: ModelControlOptions | None = None,
    ) -> list[str]:
        """The server's command line; on a card it takes each model's configs/gpu.pbtxt. A shell adds the process id to the names of its shared memory before it becomes the server:
        one that is started again after a crash must not meet the regions of the one before it."""
        return [
            "sh", "-c", f'exec "$@" --backend-config=python,shm-region-prefix-name={self._shared_memory}$$', "sh",
            str(self._server / "bin" / "tritonserver"),
            f"--model-repository={self._plain(repository)}",
            f"--backend-directory={self._plain(self._backends)}",
            *([f"--http-address={host}", f"--http-port={http}"] if http else ["--allow-http=false"]),
            f"--grpc-address={host}", f"--grpc-port={grpc}",
            f"--metrics-address={host}", f"--metrics-port={metrics}",
            "--exit-on-error=true", "--log-verbose=0", "--disable-auto-complete-config",
            *(["--model-config-name=gpu"] if on_card else []),
            *(self._controlled(control) if control else []),
        ]  # fmt: skip

    def _controlled(self, control: ModelControlOptions) -> list[str]:
        return [
            "--model-control-mode=explicit", f"--load-model={control.first}",
            "--strict-readiness=false",  # else the server is not ready while a model is loaded, nor after a failed load
            f"--model-repository={self._plain(control.repository)}",
            f"--grpc-restricted-protocol={RESTRICTED}:model-control={control.key}",
            f"--http-restricted-api={RESTRICTED}:model-control={control.key}",
        ]  # fmt: skip

    def _plain(self, path: Path) -> Path:
        """The path, or a link to it: Triton starts its Python processes through a shell, with paths that it does not quote."""
        if PLAIN.fullmatch(str(path)):
            return path
        if self._aliases is None:
            plain = PLAIN.fullmatch(tempfile.gettempdir())
            self._aliases = tempfile.TemporaryDirectory(prefix="icestream-", dir=None if plain else "/tmp")
        link = Path(self._aliases.name) / hashlib.sha256(str(path).encode()).hexdigest()[:12]
        if not link.is_symlink():
            link.symlink_to(path, target_is_directory=True)
        return link

    def clean_up(self) -> None:
        """Remove links, and the shared memory that killed servers have left: ours, and that of commands that are gone."""
        if self._aliases is not None:
            self._aliases.cleanup()
            self._aliases = None
        for region in Path("/dev/shm").glob("icestream-*-*"):
            owner = region.name.split("-")[1]
            ours = region.name.startswith(self._shared_memory) or not Path(f"/proc/{owner}").exists()
            with suppress(OSError):  # another user's, or another command has removed it
                if ours:
                    region.unlink()

    def environment(self) -> dict[str, str]:
        """Variables the server needs. Its embedded Python takes its packages from the `python3` that is first on the PATH."""
        return {
            "LD_LIBRARY_PATH": os.pathsep.join(str(folder) for folder in self._libraries),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        }


def libpython_folder(state_dir: Path) -> Path:
    """The folder of this interpreter's shared library; on Debian it is fetched without root if it is not installed."""
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    package = name.removesuffix(".so.1.0")
    fetched = state_dir / "debian"
    folders = [
        Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib"),
        Path("/usr/lib") / (sysconfig.get_config_var("MULTIARCH") or ""),
    ]
    folders += [fetched / folder.relative_to("/") for folder in folders]
    for folder in folders:
        if (folder / name).exists():
            return folder
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise MissingDependency(
            f"{name} is missing, which Triton's Python backend links to: install your system's package {package}"
        )
    try:
        fetch_debian_package(package, fetched)
    except subprocess.CalledProcessError as error:
        raise MissingDependency(
            f"{name} is missing and could not be fetched ({error.stderr.strip()[-200:]}): apt-get install {package}"
        ) from None
    for folder in folders:
        if (folder / name).exists():
            return folder
    raise MissingDependency(f"{name} is missing: apt-get install {package}")
