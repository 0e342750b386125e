"""The files of the versions that are served beside the shipped model: a repository of Triton's, a name for each version.

A folder is written under another name and renamed, and never changed afterwards: Triton loads a model again whose files were only
touched. The members of an ensemble lie beside it, as NAME+MEMBER.
"""

import shutil
from functools import cached_property
from pathlib import Path

from icestream.inference.model_files import CONFIG, MEMBERS, config_called, configs, digest, members
from icestream.registry import Registry, RegistryError, Version

OF = "+"  # between the name of an ensemble and that of its member


class Repository:
    """The folders of versions.

    Args:
        folder: of the repository.
        shipped: the model that is served before there is a registry, in another repository; its folder's name is its own.
    """

    def __init__(self, folder: Path, shipped: Path):
        self._folder, self.shipped = folder, shipped
        folder.mkdir(parents=True, exist_ok=True)
        for half_written in folder.glob(f".{self._version}*"):
            shutil.rmtree(half_written, ignore_errors=True)
        for member in self._members():
            if not self.has(member.name.split(OF)[0]):
                shutil.rmtree(member, ignore_errors=True)

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
        return f"{self._version}{version.version}-{version.digest[:8] or 'unknown'}"

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
            parts = members(fresh)
            called = {part.name: f"{name}{OF}{part.name}" for part in parts}
            for folder, new in ((fresh, name), *((part, called[part.name]) for part in parts)):
                for config in configs(folder):
                    config.write_text(config_called(new, config.read_text(), called))
        except (OSError, ValueError) as error:
            raise RegistryError(f"version {version.version} has no {CONFIG} that Triton reads: {error}") from None
        for part in parts:  # before the ensemble, which says that all is there
            shutil.rmtree(self._folder / called[part.name], ignore_errors=True)
            part.rename(self._folder / called[part.name])
        shutil.rmtree(fresh / MEMBERS, ignore_errors=True)
        fresh.rename(self._folder / name)

    def names(self) -> set[str]:
        """The models that are there, without the members of ensembles."""
        versions = {path for path in self._folder.iterdir() if path.name.startswith(self._version)}
        return {path.name for path in versions - self._members()}

    @property
    def _version(self) -> str:
        """What the names of versions begin with."""
        return f"{self.shipped.name}-v"

    def remove(self, name: str) -> None:
        """Delete a model that no Triton has loaded, and its members."""
        for folder in (self._folder / name, *self._members(name)):
            shutil.rmtree(folder, ignore_errors=True)

    def _members(self, name: str | None = None) -> set[Path]:
        """The folders of members, of one ensemble or of all."""
        begins = self._version if name is None else name + OF
        return {path for path in self._folder.iterdir() if OF in path.name and path.name.startswith(begins)}
