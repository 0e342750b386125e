"""Compares the versions that aliases ask for with what is served, and brings the one to the other.

    aliases in MLflow ─▶ files in the repository ─▶ loaded by every Triton ─▶ proved by every Triton ─▶ serving state in Redis

A version that fails on the way changes nothing: what is served stays. Nothing is remembered but the serving state: after a
restart of this process, of Triton or of both the same comparison leads to the same end.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from deployer.metrics import ALIASES, DeployerMetrics
from deployer.repository import Repository
from deployer.settings import DeployerSettings
from icestream.inference.addresses import resolve
from icestream.inference.checked_model import CheckedModel
from icestream.inference.control import ModelControl
from icestream.inference.errors import InferenceError
from icestream.registry import CHALLENGER, CHAMPION, PREVIOUS, Registry, RegistryError, Version
from icestream.service.logs import Log
from icestream.streams.connection import AsyncRedis, RedisError
from icestream.streams.serving import Served, Serving, read_serving_asyncio, replace_serving, write_problems
from icestream.tasks import cancel

PENDING_S = 0.5  # between two looks while a version is on its way
AGAIN_S = 30.0  # after which a version that could not be loaded is tried again


class NotServed(Exception):
    """A version cannot be served now; the message says why."""


class Deployer:
    """Use inside a running event loop, and close it.

    Args:
        connect: makes the `CheckedModel` of a name in Triton.
    """

    def __init__(
        self,
        settings: DeployerSettings,
        registry: Registry,
        repository: Repository,
        redis: AsyncRedis,
        *,
        connect: Callable[[str], CheckedModel],
        metrics: DeployerMetrics,
        log: Log,
    ):
        self._settings, self._registry, self._repository, self._redis = settings, registry, repository, redis
        self._connect, self._metrics, self._log = connect, metrics, log
        self._proofs: dict[str, CheckedModel] = {}  # by name in Triton
        self._controls: dict[str, ModelControl] = {}  # by address
        self._away = "no Triton was asked yet"  # or why the last one that is away is
        self._loading: dict[str, asyncio.Task[None]] = {}  # by name, and what came of the last time
        self._failures: dict[str, tuple[float, str]] = {}  # name → when and why it could not be loaded
        self._one_load = asyncio.Lock()  # a load takes a core for a second or two
        self._unwanted: dict[str, float] = {}  # name → since when
        self._began = False  # the model that Triton has from the start is registered
        self._told: dict[str, str] | None = None  # alias → why it is not served,
        self._told_s = 0.0  # and since when

    async def run(self, stopping: asyncio.Event) -> None:
        """Compare again and again until stopped."""
        while not stopping.is_set():
            self._metrics.beat()
            try:
                await self.step()
            except RegistryError as error:
                self._failed("mlflow", error)
            except (InferenceError, OSError) as error:
                self._failed("triton", error)
            except RedisError as error:
                self._failed("redis", error)
            on_its_way = bool(self._told) and time.monotonic() - self._told_s < AGAIN_S
            pause_s = PENDING_S if on_its_way else self._settings.poll_s
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), min(pause_s, self._settings.poll_s))

    async def close(self) -> None:
        await cancel(self._loading.values())
        for proof in self._proofs.values():
            await proof.close()
        for control in self._controls.values():
            await control.close()

    async def step(self) -> None:
        """One comparison. Raises RegistryError, InferenceError, OSError, RedisError: what was done so far stays."""
        before = await read_serving_asyncio(self._redis)
        versions = await asyncio.to_thread(self._registry.versions)
        if not self._began:
            if not any(self._repository.name(version) == self._repository.shipped.name for version in versions):
                await asyncio.to_thread(self._register_shipped, versions)
                versions = await asyncio.to_thread(self._registry.versions)
            self._began = True
        wanted = {alias: one for one in versions for alias in one.aliases}
        loaded = await self._loaded()
        served: dict[str, Served] = {}
        problems: dict[str, str] = {}
        for alias in (CHAMPION, CHALLENGER, PREVIOUS):
            if version := wanted.get(alias):
                try:
                    served[alias] = self._served(version, loaded)
                except NotServed as error:
                    problems[alias] = f"version {version.version}: {error}"
        await self._tell(problems)
        champion = served.get(CHAMPION) or (before.champion if before else None)
        if champion is None:
            return
        challenger = served.get(CHALLENGER) if wanted.get(CHALLENGER) else None
        after = Serving(
            champion=champion, challenger=challenger, share=wanted[CHALLENGER].share if challenger else 0.0,
            changed_ms=time.time_ns() // 1_000_000,
        )  # fmt: skip
        if before is None or _content(before) != _content(after):
            if await replace_serving(self._redis, before, after):
                self._metrics.changed()
                self._log.info("the serving state has changed", champion=champion.name, version=champion.version)
            before = await read_serving_asyncio(self._redis)
        if before:
            self._metrics.epoch(before.epoch)
        keep = {champion.name, *(self._repository.name(version) for version in wanted.values())}
        await self._unload_unwanted(keep, loaded)

    def _register_shipped(self, versions: Sequence[Version]) -> None:
        """Make the model that Triton has from the start a version, and the champion: whoever starts with another one wants that."""
        checkpoint = self._repository.shipped_checkpoint()
        version = self._registry.register(self._repository.shipped, checkpoint, {})
        if before := next((one for one in versions if CHAMPION in one.aliases), None):
            self._registry.set_alias(PREVIOUS, before.version)
        self._registry.set_alias(CHAMPION, version)
        self._log.info("registered the shipped model as the champion", version=version, checkpoint=checkpoint)

    async def _loaded(self) -> dict[str, set[str]]:
        """The models that each server has loaded, without servers that are away; raises OSError."""
        addresses = await resolve(self._settings.triton_url)
        for address in self._controls.keys() - set(addresses):
            await self._controls.pop(address).close()
        found = {}
        for address in addresses:
            if address not in self._controls:
                self._controls[address] = ModelControl(address, self._settings.triton_key)
            try:
                found[address] = await self._controls[address].loaded()
            except InferenceError as error:  # it is away, or does not take the key
                self._away = str(error)
        return found

    def _served(self, version: Version, loaded: dict[str, set[str]]) -> Served:
        """The version, if every server that is there has loaded and proved it; otherwise a step towards that, and NotServed."""
        name = self._repository.name(version)
        self._unwanted.pop(name, None)
        if not loaded:
            raise NotServed(self._away)
        if not self._repository.has(name) or any(name not in models for models in loaded.values()):
            self._load(version, [address for address, models in loaded.items() if name not in models])
        if name not in self._proofs:
            self._proofs[name] = self._connect(name)
        if not self._proofs[name].is_proved_at(loaded):
            raise NotServed(f"not every Triton has proved it: {self._proofs[name].reason}")
        return Served(version=version.version, name=name)

    def _load(self, version: Version, addresses: Sequence[str]) -> None:
        """Have the version loaded in the background; raises NotServed."""
        name = self._repository.name(version)
        task = self._loading.get(name)
        if task and task.done():
            del self._loading[name]
            if error := task.exception():
                self._failures[name] = (time.monotonic(), str(error))
        failed_s, why = self._failures.get(name, (-math.inf, ""))
        if time.monotonic() - failed_s < AGAIN_S:
            raise NotServed(why)
        if name not in self._loading:
            self._loading[name] = asyncio.create_task(self._fetch_and_load(version, addresses))
        raise NotServed("it is being loaded")

    async def _fetch_and_load(self, version: Version, addresses: Sequence[str]) -> None:
        """Raises RegistryError, InferenceError."""
        async with self._one_load:
            await asyncio.to_thread(self._repository.add, version, self._registry)
            for address in addresses:
                await self._controls[address].load(self._repository.name(version))

    async def _unload_unwanted(self, wanted: set[str], loaded: dict[str, set[str]]) -> None:
        """Unload and delete what no alias has wanted for a while. The shipped model stays."""
        for name in self._repository.names() - wanted:
            if time.monotonic() - self._unwanted.setdefault(name, time.monotonic()) < self._settings.grace_s:
                continue
            if name in self._proofs:
                await self._proofs.pop(name).close()
            if having := [address for address, models in loaded.items() if name in models]:
                for address in having:
                    await self._controls[address].unload(name)
            else:  # at a later look: unloading takes seconds
                await asyncio.to_thread(self._repository.remove, name)
                del self._unwanted[name]
                self._log.info("removed a model that no alias asks for", model=name)

    async def _tell(self, problems: dict[str, str]) -> None:
        """Say what is not served, and why, when that changes."""
        if problems == self._told:
            return
        for alias in ALIASES:
            self._metrics.unserved(alias, alias in problems)
        for alias, reason in problems.items():
            if self._told is None or self._told.get(alias) != reason:
                self._log.warning("an alias asks for what is not served", alias=alias, reason=reason)
        await write_problems(self._redis, problems)
        self._told, self._told_s = problems, time.monotonic()

    def _failed(self, target: str, error: Exception) -> None:
        self._metrics.failed(target)
        self._log.warning("looking again later", error=str(error), failed=target)


def _content(state: Serving) -> tuple[object, ...]:
    return state.champion, state.challenger, state.share
