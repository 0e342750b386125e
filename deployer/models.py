"""The versions of the model, which of them is served, comparing two of them and changing them while the stream runs.

icestream models [list | challenge VERSION [--share S] | compare | promote VERSION [--because WORDS] | rollback | end]
docker compose exec deployer python -m deployer.models [list | …]
"""

import argparse
import getpass
import socket
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

from deployer.settings import DeployerSettings
from icestream.registry import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    PROMOTED_TAGS,
    SHARE,
    SHARE_TAG,
    Registry,
    RegistryError,
    Version,
)
from icestream.results.comparison import Check, Comparison, gate
from icestream.service.settings import load
from icestream.streams.challenge import read_comparison, read_copies
from icestream.streams.connection import RedisError, connect
from icestream.streams.serving import Serving, read_report, read_serving

WAIT_S = 60.0
POLL_S = 0.2
BUDGET_S = 1.0  # as of the alert LatencyOverBudget
T = TypeVar("T")


class ModelsError(Exception):
    """What ends the command; the message names the cause and the fix."""


class Models:
    """The command, on a running system. Every method raises ModelsError.

    Args:
        budget_s: seconds within which 99 % of the answers of a challenger that is promoted come.
    """

    def __init__(self, registry: Registry, redis_url: str, password: str | None, budget_s: float = BUDGET_S):
        self._registry, self._redis, self._budget_s = registry, connect(redis_url, password), budget_s

    def lines(self) -> list[str]:
        """A line for each version, what every Triton has loaded, and what is not as an alias wants it."""
        versions = self._in_registry(self._registry.versions)
        if not versions:
            return ["no version is registered yet: a deployer registers the shipped model when it starts"]
        serving, report = self._serving(), self._in_redis(lambda: read_report(self._redis))
        lines = [f"{'version':<8} {'served as':<34} {'aliases':<24} {'registered':<17} checkpoint"]
        for one in versions:
            lines.append(
                f"{one.version:<8} {_served_as(one, serving):<34} {', '.join(one.aliases) or '–':<24} "
                f"{_time(one.created_ms / 1000)}  {one.checkpoint}"
            )
        if serving:
            lines.append(f"served so since {_time(serving.since_s)} UTC")
        lines += [f"Triton at {address} has loaded {', '.join(names)}" for address, names in report.loaded.items()]
        return lines + [f"{alias}: {words}" for alias, words in report.problems.items()]

    def challenge(self, version: str, share: float) -> list[str]:
        """Have a version answer a share of the events as well, and wait until it does."""
        self._known(version)
        now = self._serving()
        if version in (now and now.champion.version, self._holder(CHAMPION)):
            raise ModelsError(f"version {version} is the champion: it answers every event")
        self._in_registry(lambda: self._registry.tag(version, SHARE_TAG, str(share)))
        self._in_registry(lambda: self._registry.set_alias(CHALLENGER, version))
        serving, seconds = self._wait(
            version,
            CHALLENGER,
            lambda now: now.challenger is not None and (now.challenger.version, now.share) == (version, share),
        )
        return [f"after {seconds:.1f} s version {version} answers {serving.share:.0%} of the events as well"]

    def end(self) -> list[str]:
        """End the challenge."""
        if (version := self._holder(CHALLENGER)) is None:
            raise ModelsError("there is no challenger")
        self._in_registry(lambda: self._registry.delete_alias(CHALLENGER))
        self._wait(version, CHALLENGER, lambda now: now.challenger is None)
        return [f"version {version} is no challenger any more"]

    def compare(self) -> list[str]:
        """How challenger and champion compare, and what of it stands against a promotion."""
        found, checks = self._compared()
        ours, theirs, mean = found.champion, found.challenger, max(found.truths, 1)
        rows: list[tuple[str, str, str]] = [
            ("", f"champion {found.champion_version}", f"challenger {found.challenger_version}"),
            ("answers within, 99 %", f"{ours.p99_s:.3g} s", f"{theirs.p99_s:.3g} s"),
        ]
        if found.truths:
            rows += [
                (
                    "mean opening angle",
                    f"{ours.opening_angle_deg / mean:.2f}°",
                    f"{theirs.opening_angle_deg / mean:.2f}°",
                ),
                ("50 % radius holds", f"{ours.within_50 / mean:.1%}", f"{theirs.within_50 / mean:.1%}"),
                ("90 % radius holds", f"{ours.within_90 / mean:.1%}", f"{theirs.within_90 / mean:.1%}"),
            ]
        lines = [f"{name:<24} {one:>14} {other:>14}" for name, one, other in rows]
        lines.append(
            f"median angle between the two {found.median_between_deg:.3g}°, κ {found.kappa_ratio:.2f} times the champion's; "
            f"{found.pairs} events, the truth of {found.truths} is known, {found.unpaired} could not be paired"
        )
        return lines + [f"{'passed' if check.passed else 'FAILED'}  {check.words}" for check in checks]

    def promote(self, version: str, because: str) -> list[str]:
        """Make a version the champion, and wait until it is served; without a reason only if it was compared and is no worse."""
        self._known(version)
        said = because or "the gate was passed"
        if not because:
            serving = self._serving()
            if serving is None or serving.challenger is None or serving.challenger.version != version:
                raise ModelsError(
                    f"version {version} was not compared with the champion: icestream models challenge {version}, "
                    'or give --because "WORDS"'
                )
            _, checks = self._compared()
            if failed := [check.words for check in checks if not check.passed]:
                raise ModelsError(f"version {version} stays the challenger: " + "; ".join(failed))
        gate_words = "not asked" if because else "passed"
        for tag, words in zip(
            PROMOTED_TAGS, (f"{getpass.getuser()}@{socket.gethostname()}", said, gate_words), strict=True
        ):
            self._in_registry(lambda tag=tag, words=words: self._registry.tag(version, tag, words))  # type: ignore[misc]
        lines = self._change(version)
        if self._holder(CHALLENGER) == version:
            self._in_registry(lambda: self._registry.delete_alias(CHALLENGER))
        return lines

    def rollback(self) -> list[str]:
        """Make the version champion that was it before, and wait until it is served."""
        now = self._serving()
        # After a withdrawal what is served is the one before.
        before = now.champion.version if now and now.withdrawn else self._holder(PREVIOUS)
        if before is None:
            raise ModelsError("no version was the champion before this one: icestream models promote VERSION")
        return self._change(before)

    def _change(self, version: str) -> list[str]:
        serving = self._serving()
        # What was served, not only asked for.
        champion = serving.champion.version if serving else self._holder(CHAMPION)
        if champion is not None and champion != version:
            self._in_registry(lambda: self._registry.set_alias(PREVIOUS, champion))
        self._in_registry(lambda: self._registry.set_alias(CHAMPION, version))
        serving, seconds = self._wait(version, CHAMPION, lambda now: now.champion.version == version)
        return [f"version {version} is served as {serving.champion.name} after {seconds:.1f} s"]

    def _wait(self, version: str, alias: str, done: Callable[[Serving], bool]) -> tuple[Serving, float]:
        """The state in which it is done, and the seconds that took."""
        began = time.monotonic()
        while True:
            if (serving := self._serving()) and done(serving):
                return serving, time.monotonic() - began
            if time.monotonic() - began > WAIT_S:
                words = self._in_redis(lambda: read_report(self._redis)).problems.get(alias, "is a deployer running?")
                raise ModelsError(f"version {version}: not after {WAIT_S:.0f} s: {words}")
            time.sleep(POLL_S)

    def _compared(self) -> tuple[Comparison, list[Check]]:
        serving = self._serving()
        if serving is None or serving.challenger is None:
            raise ModelsError("there is no challenger: icestream models challenge VERSION")
        epoch = serving.epoch
        found = self._in_redis(lambda: read_comparison(self._redis, epoch))
        if found is None:
            raise ModelsError("nothing was compared yet: the recorder does that every few seconds")
        copies = self._in_redis(lambda: read_copies(self._redis, epoch))
        return found, gate(found, copies, self._budget_s)

    def _known(self, version: str) -> Version:
        versions = self._in_registry(self._registry.versions)
        found = next((one for one in versions if one.version == version), None)
        if found is None:
            numbers = ", ".join(one.version for one in versions) or "none"
            raise ModelsError(f"no version {version} is registered; there are {numbers}")
        return found

    def _holder(self, alias: str) -> str | None:
        return next((one.version for one in self._in_registry(self._registry.versions) if alias in one.aliases), None)

    def _serving(self) -> Serving | None:
        return self._in_redis(lambda: read_serving(self._redis))

    @staticmethod
    def _in_redis(call: Callable[[], T]) -> T:
        try:
            return call()
        except RedisError as error:
            raise ModelsError(f"Redis does not answer as expected ({error}): is --redis-url right?") from None

    @staticmethod
    def _in_registry(call: Callable[[], T]) -> T:
        try:
            return call()
        except RegistryError as error:
            raise ModelsError(f"{error}: is --mlflow-url right?") from None


def add_actions(parser: argparse.ArgumentParser) -> None:
    """What can be done, as words of a command line."""
    actions = parser.add_subparsers(dest="action")
    actions.add_parser("list", help="the versions (default)")
    challenge = actions.add_parser("challenge", help="have a version answer some of the events as well, to compare it")
    challenge.add_argument("version", help="its number, as list prints it")
    challenge.add_argument(
        "--share", type=_share, default=SHARE, help=f"of the events, above 0 and at most 1 ({SHARE})"
    )
    actions.add_parser("end", help="end the challenge")
    compare = actions.add_parser("compare", help="how challenger and champion compare")
    promote = actions.add_parser("promote", help="serve a version")
    promote.add_argument("version", help="its number, as list prints it")
    promote.add_argument("--because", default="", metavar="WORDS", help="why, if it was not compared; kept with it")
    for one in (compare, promote):
        one.add_argument(
            "--budget",
            type=float,
            default=BUDGET_S,
            metavar="SECONDS",
            help=f"within which 99 %% of the answers come ({BUDGET_S:g})",
        )
    actions.add_parser("rollback", help="serve the version that was served before")


def act(registry: Registry, redis_url: str, password: str | None, options: argparse.Namespace) -> list[str]:
    """Do what was asked for; returns the lines to print. Raises ModelsError."""
    models = Models(registry, redis_url, password, getattr(options, "budget", BUDGET_S))
    match options.action:
        case "challenge":
            return models.challenge(options.version, options.share)
        case "promote":
            return models.promote(options.version, options.because)
        case "end" | "compare" | "rollback":
            lines: list[str] = getattr(models, options.action)()
            return lines
        case _:
            return models.lines()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deployer.models", description="The versions of the model.")
    add_actions(parser)
    options = parser.parse_args()
    settings = load(DeployerSettings, "models", command_line=False)
    registry = Registry(settings.mlflow_url, settings.registered_model)
    try:
        lines = act(registry, settings.redis_url, settings.redis_password, options)
    except ModelsError as error:
        sys.exit(f"models: {error}")
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0 and at most 1")
    return share


def _served_as(version: Version, serving: Serving | None) -> str:
    if serving and serving.champion.version == version.version:
        return serving.champion.name
    if serving and serving.challenger and serving.challenger.version == version.version:
        return f"{serving.challenger.name} ({serving.share:.0%})"
    return "–"


def _time(unix_s: float) -> str:
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%M}"


if __name__ == "__main__":
    main()
