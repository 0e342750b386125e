"""Prometheus's programs: the machine's, or Debian's packages unpacked beside the virtual environment."""

import shutil
import subprocess
from collections.abc import Callable

import pytest

from tests.waiting import ROOT
from tritonserver.debian import fetch_debian_package

FETCHED = ROOT / ".venv" / "debian"
PACKAGES = {
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "amtool": "prometheus-alertmanager",
    "prometheus-redis-exporter": "prometheus-redis-exporter",
}


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """Finds one of these programs."""

    def find(name: str) -> str:
        if found := shutil.which(name):
            return found
        fetched = FETCHED / "usr" / "bin" / name
        if not fetched.exists():
            if shutil.which("apt-get") is None:
                pytest.skip(f"{name} is not installed, and this is no Debian to fetch it from")
            try:
                fetch_debian_package(PACKAGES[name], FETCHED)
            except subprocess.CalledProcessError as error:
                pytest.fail(f"{name} could not be fetched: {error.stderr}")
        return str(fetched)

    return find
