"""Fetches a Debian package without root, for machines that lack a part.

python3 -m tritonserver.debian PACKAGE FOLDER
"""

import subprocess
import sys
from pathlib import Path


def fetch_debian_package(package: str, folder: Path) -> None:
    """Unpack a Debian package into a folder. Needs apt-get and dpkg-deb, but neither root nor package lists.

    Raises:
        subprocess.CalledProcessError: there is no such package, or no network; stderr tells.
    """
    folder = folder.resolve()
    (folder / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    options = [f"-oDir::State::Lists={folder / 'lists'}", f"-oDir::Cache={folder / 'cache'}", "-oAPT::Sandbox::User="]

    def run(*command: str) -> None:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)

    run("apt-get", *options, "update")
    run("apt-get", *options, "download", package)
    for archive in folder.glob(f"{package}_*.deb"):
        run("dpkg-deb", "-x", archive.name, ".")


if __name__ == "__main__":
    try:
        fetch_debian_package(sys.argv[1], Path(sys.argv[2]))
    except subprocess.CalledProcessError as failure:
        sys.exit(f"{sys.argv[1]} could not be fetched: {failure.stderr.strip()}")
