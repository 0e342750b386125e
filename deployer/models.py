"""The versions of the model, which of them is served, and changing that while the stream runs.

icestream models [list | promote VERSION [--because WORDS] | rollback]
docker compose exec deployer python -m deployer.models [list | …]
"""

import argparse
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

from deployer.settings import DeployerSettings
from icestream.registry import BECAUSE_TAG, CHAMPION, PREVIOUS, Registry, RegistryError, Version
from icestream.service.settings import load
from icestream.streams.connection import RedisError, connect
from icestream.streams.serving import Serving, read_problems, read_serving

WAIT_S = 60.0
POLL_S = 0.2
T = TypeVar("T")


class ModelsError(Exception):
    """What ends the command; the message names the cause and the fix."""


class Models:
    """The command, on a running system. Every method raises ModelsError."""

    def __init__(self, registry: Registry, redis_url: str, password: str | None):
        self._registry, self._redis = registry, connect(redis_url, password)

    def lines(self) -> list[str]:
        """A line for each version."""
        versions = self._do(self._registry.versions)
        if not versions:
            return ["no version is registered yet: a deployer registers the shipped model when it starts"]
        serving, problems = self._state()
        lines = [f"{'version':<8} {'served as':<16} {'aliases':<24} {'registered':<17} checkpoint"]
        for one in versions:
            registered = datetime.fromtimestamp(one.created_ms / 1000, UTC)
            lines.append(
                f"{one.version:<8} {_served_as(one, serving):<16} {', '.join(one.aliases) or '–':<24} "
                f"{registered:%Y-%m-%d %H:%M}  {one.checkpoint}"
            )
        return lines + [f"{alias}: {words}" for alias, words in problems.items()]

    def promote(self, version: str, because: str) -> list[str]:
        """Make a version the champion, and wait until it is served."""
        self._known(version)
        if because:
            self._do(lambda: self._registry.tag(version, BECAUSE_TAG, because))
        return self._change(version)

    def rollback(self) -> list[str]:
        """Make the version champion that was it before, and wait until it is served."""
        before = self._holder(PREVIOUS)
        if before is None:
            raise ModelsError("no version was the champion before this one: icestream models promote VERSION")
        return self._change(before)

    def _change(self, version: str) -> list[str]:
        serving, _ = self._state()
        champion = (
            serving.champion.version if serving else self._holder(CHAMPION)
        )  # what was served, not only asked for
        began = time.monotonic()
        if champion is not None and champion != version:
            self._do(lambda: self._registry.set_alias(PREVIOUS, champion))
        self._do(lambda: self._registry.set_alias(CHAMPION, version))
        while True:
            serving, problems = self._state()
            if serving and serving.champion.version == version:
                return [
                    f"version {version} is served as {serving.champion.name} after {time.monotonic() - began:.1f} s"
                ]
            if time.monotonic() - began > WAIT_S:
                words = problems.get(CHAMPION, "is a deployer running?")
                raise ModelsError(f"version {version} is not served after {WAIT_S:.0f} s: {words}")
            time.sleep(POLL_S)

    def _known(self, version: str) -> Version:
        versions = self._do(self._registry.versions)
        found = next((one for one in versions if one.version == version), None)
        if found is None:
            numbers = ", ".join(one.version for one in versions) or "none"
            raise ModelsError(f"no version {version} is registered; there are {numbers}")
        return found

    def _holder(self, alias: str) -> str | None:
        return next((one.version for one in self._do(self._registry.versions) if alias in one.aliases), None)

    def _state(self) -> tuple[Serving | None, dict[str, str]]:
        try:
            return read_serving(self._redis), read_problems(self._redis)
        except RedisError as error:
            raise ModelsError(f"Redis does not answer as expected ({error}): is --redis-url right?") from None

    @staticmethod
    def _do(call: Callable[[], T]) -> T:
        try:
            return call()
        except RegistryError as error:
            raise ModelsError(f"{error}: is --mlflow-url right?") from None


def add_actions(parser: argparse.ArgumentParser) -> None:
    """What can be done, as words of a command line."""
    actions = parser.add_subparsers(dest="action")
    actions.add_parser("list", help="the versions (default)")
    promote = actions.add_parser("promote", help="serve a version")
    promote.add_argument("version", help="its number, as list prints it")
    promote.add_argument("--because", default="", metavar="WORDS", help="why; kept with the version")
    actions.add_parser("rollback", help="serve the version that was served before")


def act(models: Models, options: argparse.Namespace) -> list[str]:
    """Do what was asked for; returns the lines to print. Raises ModelsError."""
    if options.action == "promote":
        return models.promote(options.version, options.because)
    return models.rollback() if options.action == "rollback" else models.lines()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deployer.models", description="The versions of the model.")
    add_actions(parser)
    options = parser.parse_args()
    settings = load(DeployerSettings, "models", command_line=False)
    registry = Registry(settings.mlflow_url, settings.registered_model)
    try:
        lines = act(Models(registry, settings.redis_url, settings.redis_password), options)
    except ModelsError as error:
        sys.exit(f"models: {error}")
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def _served_as(version: Version, serving: Serving | None) -> str:
    return serving.champion.name if serving and serving.champion.version == version.version else "–"


if __name__ == "__main__":
    main()
