"""The files of the versions that are served beside the shipped model: a repository of Triton's, a name for each version.

A folder is written under another name and renamed, and never changed afterwards: Triton loads a model again whose files were only
touched.
"""

import shutil
from functools import cached_property
from pathlib import Path

from icestream.inference.model_files import CONFIG, config_called, configs, digest
from icestream.registry import Registry, RegistryError, Version


class Repository:
    """The folders of versions.

    Args:
        folder: of the repository.
        shipped: the model that is served before there is a registry, in another repository; its folder's name is its own.
    """

    def __init__(self, folder: Path, shipped: Path):
        self._folder, self.shipped = folder, shipped
        folder.mkdir(parents=True, exist_ok=True)
        for half_written in folder.glob(".*"):
            shutil.rmtree(half_written, ignore_errors=True)

    @cached_property
    def shipped_digest(self) -> str:
        """Of the model that Triton has from the start; raises RegistryError."""
        try:
            return digest(self.shipped)
        except (OSError, ValueError) as error:
            raise RegistryError(f"there is no model to begin with: {self.shipped}: {error}") from None

    def name(self, version: Version) -> str:
        """What a version is called in Triton: its files decide, as well as its number."""
        if version.digest == self.shipped_digest:
            return self.shipped.name
        return f"{self.shipped.name}-v{version.version}-{version.digest[:8] or 'unknown'}"

    def has(self, name: str) -> bool:
        return name == self.shipped.name or (self._folder / name).exists()

    def add(self, version: Version, registry: Registry) -> None:
        """Fetch the files of a version, unless they are there; raises RegistryError."""
        name = self.name(version)
        if self.has(name):
            return
        fresh = self._folder / f".{name}"
        shutil.rmtree(fresh, ignore_errors=True)
        registry.fetch(version, fresh)
        try:
            for config in configs(fresh):
                config.write_text(config_called(name, config.read_text()))
        except (OSError, ValueError) as error:
            raise RegistryError(f"version {version.version} has no {CONFIG} that Triton reads: {error}") from None
        fresh.rename(self._folder / name)

    def names(self) -> set[str]:
        """The models that are there."""
        return {path.name for path in self._folder.iterdir() if not path.name.startswith(".")}

    def remove(self, name: str) -> None:
        """Delete a model that no Triton has loaded."""
        shutil.rmtree(self._folder / name, ignore_errors=True)
