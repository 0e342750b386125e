"""Compares the versions that aliases ask for with what is served, and brings the one to the other.

    aliases in MLflow ─▶ files in the repository ─▶ loaded by every Triton ─▶ proved by every Triton ─▶ serving state in Redis

A version that fails on the way changes nothing: what is served stays, and is loaded again where a Triton lacks it, whatever the
aliases say and whether or not MLflow answers. Nothing is remembered but the serving state and the files: after a restart of
anything the same comparison leads to the same end.

A champion that no Triton proves any more, or that refuses events, is withdrawn: the one before it takes its place, with MLflow or
without, and stays until the alias names another version.
"""

import asyncio
import math
import time
from contextlib import suppress

from msgspec import structs

from deployer.failures import Failures
from deployer.metrics import ALIASES, DeployerMetrics
from deployer.repository import Repository
from deployer.tritons import AGAIN_S, NotServed, Tritons
from icestream.inference.errors import InferenceError
from icestream.registry import CHALLENGER, CHAMPION, PREVIOUS, SHARE_TAG, Registry, RegistryError, Version
from icestream.service.logs import Log
from icestream.streams.connection import AsyncRedis, RedisError
from icestream.streams.serving import (
    Report,
    Served,
    Serving,
    read_epoch_asyncio,
    read_serving_asyncio,
    replace_serving,
    write_report,
)
from icestream.tasks import cancel, in_thread

PENDING_S = 0.5  # between two looks while a version is on its way
BEAT_S = 5.0  # between two signs of life while it compares
STEP_S = 600.0  # that a comparison takes at most: the first one puts the model that is shipped into the registry


class Deployer:
    """Use inside a running event loop."""

    def __init__(
        self,
        registry: Registry,
        repository: Repository,
        tritons: Tritons,
        redis: AsyncRedis,
        *,
        poll_s: float,
        grace_s: float,
        metrics: DeployerMetrics,
        log: Log,
    ):
        self._registry, self._repository, self._tritons, self._redis = registry, repository, tritons, redis
        self._poll_s, self._grace_s, self._metrics, self._log = poll_s, grace_s, metrics, log
        self._failures = Failures(redis, tritons)
        self._began = False  # the model that Triton has from the start is registered
        self._told: Report | None = None
        self._told_s = 0.0  # when the problems in it were others

    async def run(self, stopping: asyncio.Event) -> None:
        """Compare again and again until stopped."""
        stopped = asyncio.create_task(stopping.wait())
        while not stopping.is_set():
            self._metrics.beat()
            step = asyncio.create_task(self._step_in_words())
            began_s = time.monotonic()
            while not step.done() and not stopping.is_set():
                await asyncio.wait({step, stopped}, timeout=BEAT_S, return_when=asyncio.FIRST_COMPLETED)
                if time.monotonic() - began_s < STEP_S:  # it waits for MLflow and for Tritons, each for a bounded time
                    self._metrics.beat()
            await cancel([step])
            on_its_way = bool(self._told and self._told.problems) and time.monotonic() - self._told_s < AGAIN_S
            pause_s = PENDING_S if on_its_way else self._poll_s
            await asyncio.wait({stopped}, timeout=min(pause_s, self._poll_s))

    async def _step_in_words(self) -> None:
        try:
            await self.step()
        except RegistryError as error:
            self._failed("mlflow", error)
        except (InferenceError, OSError) as error:
            self._failed("triton", error)
        except RedisError as error:
            self._failed("redis", error)
        except Exception as error:  # a reply that nobody has thought of must not end what keeps the champion loaded
            self._log.error("comparing failed unexpectedly, looking again later", exc_info=error)

    async def step(self) -> None:
        """One comparison. Raises RegistryError, InferenceError, OSError, RedisError: what was done so far stays."""
        before = await read_serving_asyncio(self._redis)
        await self._tritons.look()
        if before:
            self._metrics.serving(before)
            with suppress(NotServed):
                self._tritons.hold(before.champion.name)
            before = await self._withdraw(before)
        versions = await in_thread(self._registry.versions)
        if not self._began:
            if await in_thread(lambda: self._begin(versions)):
                versions = await in_thread(self._registry.versions)
            self._began = True
        self._hold_what_is_used(before, versions)
        wanted = {alias: one for one in versions for alias in one.aliases}
        if wanted.get(CHALLENGER) == wanted.get(CHAMPION):
            wanted.pop(CHALLENGER, None)
        served: dict[str, Served] = {}
        problems: dict[str, str] = {}
        withdrawn = before.withdrawn if before else {}
        for alias in ALIASES:  # the champion first
            if version := wanted.get(alias):
                try:
                    if alias == CHALLENGER and math.isnan(version.share):
                        raise NotServed(f"its tag {SHARE_TAG} is no number above 0 and at most 1")
                    served[alias] = self._served(version, withdrawn if alias == CHAMPION else {})
                except NotServed as error:
                    problems[alias] = f"version {version.version}: {error}"
        loaded = {address: sorted(names) for address, names in self._tritons.loaded.items()}
        await self._tell(Report(problems=problems, loaded=loaded))
        if champion := served.get(CHAMPION) or (before.champion if before else None):
            after = self._after(before, champion, wanted, served)
            await self._replace(before, after)
            used = (after.champion, after.challenger, after.previous)
            keep = {self._repository.name(wanted[alias]) for alias in ALIASES if alias in wanted}
            await self._tritons.unload_unwanted(keep | {one.name for one in used if one}, self._grace_s)

    def _hold_what_is_used(self, before: Serving | None, versions: list[Version]) -> None:
        """Have the champion, and the one before it, loaded by a Triton that lacks their files as well, whatever the aliases say."""
        for used in filter(None, (before.champion, before.previous) if before else ()):
            for version in versions:
                if self._repository.name(version) == used.name:
                    with suppress(NotServed):
                        self._tritons.hold(used.name, version)

    def _after(
        self, before: Serving | None, champion: Served, wanted: dict[str, Version], served: dict[str, Served]
    ) -> Serving:
        """The state that is wanted, as far as it is proved."""
        challenger, share, previous = served.get(CHALLENGER), 0.0, None
        withdrawn = dict[str, str]()
        if version := wanted.get(CHALLENGER):
            share = version.share
            if math.isnan(share):
                challenger = None
            elif before and before.challenger and before.challenger.name == self._repository.name(version):
                challenger = before.challenger  # also while a Triton that was restarted loads it again
        if before:
            previous = before.previous if before.champion == champion else before.champion
            if CHAMPION in wanted:  # until its alias is moved
                withdrawn = {
                    name: why
                    for name, why in before.withdrawn.items()
                    if name == self._repository.name(wanted[CHAMPION])
                }
        return Serving(
            registered=self._registry.model,
            champion=champion,
            challenger=challenger,
            share=share if challenger else 0.0,
            previous=previous,
            withdrawn=withdrawn,
        )

    async def _withdraw(self, before: Serving) -> Serving:
        """The state, with the champion before in the place of one that fails."""
        why, previous = await self._failures.reason(before), before.previous
        if not why or previous is None:
            return before
        with suppress(NotServed):
            self._tritons.proved(previous.name)
            after = Serving(
                registered=before.registered,
                champion=previous,
                withdrawn={before.champion.name: f"it was withdrawn: {why}"},
            )
            if await self._replace(before, after):
                self._metrics.withdrawn()
                model = before.champion.name
                self._log.error("the champion was withdrawn, the one before is it again", model=model, why=why)
                return await read_serving_asyncio(self._redis) or before
        return before

    async def _replace(self, before: Serving | None, after: Serving) -> bool:
        """Change the serving state, if it is another one; whether it was changed."""
        epoch, changed = before.epoch if before else await read_epoch_asyncio(self._redis), False
        if before is None or after != structs.replace(before, epoch=0, since_s=0):
            if changed := await replace_serving(self._redis, epoch, after):
                self._metrics.changed()
                names = {
                    alias: one and one.name
                    for alias, one in ((CHAMPION, after.champion), (CHALLENGER, after.challenger))
                }
                self._log.info("the serving state has changed", **names)
                self._metrics.serving(structs.replace(after, epoch=epoch + 1))
            else:
                self._log.warning("somebody else has changed the serving state: is there another deployer?")
        return changed

    def _begin(self, versions: list[Version]) -> bool:
        """Make the model that Triton has from the start a version, and the champion, if another one was there at the last start.

        Whoever starts with another model wants it to answer. That it was made champion is noted last: whatever is interrupted
        is done again.
        """
        digest = self._repository.shipped_digest
        if self._registry.first_digest() == digest:
            return False
        version = next((one.version for one in versions if one.digest == digest), None)
        if version is None:
            version = self._registry.register(self._repository.shipped, {})
        champion = next((one.version for one in versions if CHAMPION in one.aliases), version)
        if champion != version:
            self._registry.set_alias(PREVIOUS, champion)
        self._registry.set_alias(CHAMPION, version)
        self._registry.set_first_digest(digest)
        self._log.info("the model that Triton has from the start is the champion", version=version)
        return True

    def _served(self, version: Version, withdrawn: dict[str, str]) -> Served:
        """The version, if every server that is there has loaded and proved it; otherwise a step towards that, and NotServed."""
        name = self._repository.name(version)
        if why := withdrawn.get(name):
            raise NotServed(f"{why} (icestream models rollback makes the one that is served the champion)")
        checkpoint = self._tritons.proved(name, version)
        if checkpoint != version.checkpoint:
            raise NotServed(f"Triton serves as {name} what is made of {checkpoint}: restart the deployer")
        return Served(version=version.version, name=name)

    async def _tell(self, report: Report) -> None:
        """Say what is loaded, and what is not served and why, when that changes."""
        if report == self._told:
            return
        told = self._told.problems if self._told else None
        if report.problems != told:
            self._told_s = time.monotonic()
        for alias in ALIASES:
            self._metrics.unserved(alias, alias in report.problems)
        for alias, reason in report.problems.items():
            if told is None or told.get(alias) != reason:
                self._log.warning("an alias asks for what is not served", alias=alias, reason=reason)
        await write_report(self._redis, report)
        self._told = report

    def _failed(self, target: str, error: Exception) -> None:
        self._metrics.failed(target)
        self._log.warning("looking again later", error=str(error), failed=target)
