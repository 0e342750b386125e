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
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from msgspec import structs

from deployer.metrics import ALIASES, DeployerMetrics
from deployer.refusals import Refusals
from deployer.repository import Repository
from deployer.settings import DeployerSettings
from icestream.event import InvalidEvent
from icestream.inference.addresses import resolve
from icestream.inference.checked_model import CheckedModel
from icestream.inference.control import ModelControl
from icestream.inference.errors import InferenceError, TritonUnavailable
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
from icestream.wire import decode_event

PENDING_S = 0.5  # between two looks while a version is on its way
ASKED_S = 5.0  # for the answers of the one before to what the champion refused
WRONG_S = 5.0  # for which no Triton proves the champion, before it is withdrawn
AGAIN_S = 30.0  # after which a version that could not be fetched or loaded is tried again
Loaded = dict[str, set[str]]  # the models that each server has loaded, by address


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
        self._own: frozenset[str] | None = None  # addresses that it loads models into; all, if None
        self._away = "no Triton was asked yet"  # or why the last one that is away is
        self._steps: dict[tuple[str, str], asyncio.Task[None]] = {}  # (name, address) being loaded, (name, "") fetched
        self._failures: dict[tuple[str, str], tuple[float, str]] = {}  # when and why the last of those failed
        self._unwanted: dict[str, float] = {}  # name → since when
        self._began = False  # the model that Triton has from the start is registered
        self._refusals = Refusals(redis)
        self._asked: tuple[str, tuple[bytes, ...]] | None = (
            None  # a model for events that the champion refused, in vain
        )
        self._wrong: tuple[str, float] | None = None  # a champion that no Triton proves, since when
        self._told: Report | None = None
        self._told_s = 0.0  # when the problems in it were others

    async def run(self, stopping: asyncio.Event) -> None:
        """Compare again and again until stopped."""
        stopped = asyncio.create_task(stopping.wait())
        while not stopping.is_set():
            self._metrics.beat()
            step = asyncio.create_task(self._step_in_words())
            await asyncio.wait({step, stopped}, return_when=asyncio.FIRST_COMPLETED)
            await cancel([step])
            on_its_way = bool(self._told and self._told.problems) and time.monotonic() - self._told_s < AGAIN_S
            pause_s = PENDING_S if on_its_way else self._settings.poll_s
            await asyncio.wait({stopped}, timeout=min(pause_s, self._settings.poll_s))

    async def close(self) -> None:
        """Close all connections."""
        await cancel(self._steps.values())
        for proof in self._proofs.values():
            await proof.close()
        for control in self._controls.values():
            await control.close()

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
        loaded = await self._loaded()
        if before:
            with suppress(NotServed):
                self._hold(before.champion.name, loaded)
            before = await self._withdraw(before, loaded)
        versions = await in_thread(self._registry.versions)
        if not self._began:
            if await in_thread(lambda: self._begin(versions)):
                versions = await in_thread(self._registry.versions)
            self._began = True
        self._hold_what_is_used(before, versions, loaded)
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
                    served[alias] = self._served(version, loaded, withdrawn if alias == CHAMPION else {})
                except NotServed as error:
                    problems[alias] = f"version {version.version}: {error}"
        await self._tell(
            Report(problems=problems, loaded={address: sorted(names) for address, names in loaded.items()})
        )
        if champion := served.get(CHAMPION) or (before.champion if before else None):
            after = self._after(before, champion, wanted, served)
            await self._replace(before, after)
            used = (after.champion, after.challenger, after.previous)
            keep = {self._repository.name(wanted[alias]) for alias in ALIASES if alias in wanted}
            await self._unload_unwanted(keep | {one.name for one in used if one}, loaded)

    def _hold_what_is_used(self, before: Serving | None, versions: list[Version], loaded: Loaded) -> None:
        """Have the champion, and the one before it, loaded by a Triton that lacks their files as well, whatever the aliases say."""
        for used in filter(None, (before.champion, before.previous) if before else ()):
            for version in versions:
                if self._repository.name(version) == used.name:
                    with suppress(NotServed):
                        self._hold(used.name, loaded, version)

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

    async def _withdraw(self, before: Serving, loaded: Loaded) -> Serving:
        """The state, with the champion before in the place of one that fails; nothing but hard facts count."""
        champion, previous = before.champion, before.previous
        refused = await self._refusals.too_many(champion.name)
        if previous is None or not loaded:
            self._wrong = None
            return before
        why = await self._wrong_answers(champion.name, loaded)
        if not why and refused and await self._answers(previous.name):
            why = refused
        if not why:
            return before
        with suppress(NotServed):
            self._proved(previous.name, loaded)
            after = Serving(
                registered=before.registered,
                champion=previous,
                withdrawn={champion.name: f"it was withdrawn: {why}"},
            )
            if await self._replace(before, after):
                self._metrics.withdrawn()
                self._log.error("the champion was withdrawn, the one before is it again", model=champion.name, why=why)
                return await read_serving_asyncio(self._redis) or before
        return before

    async def _wrong_answers(self, name: str, loaded: Loaded) -> str:
        """In words, if no Triton has proved a model for WRONG_S; otherwise empty."""
        proof = self._proof(name)
        if not proof.is_wrong_at(loaded):
            self._wrong = None
            return ""
        if self._wrong is None or self._wrong[0] != name:
            self._wrong = (name, time.monotonic())
        if time.monotonic() - self._wrong[1] < WRONG_S:
            return ""
        await proof.prove()
        return f"no Triton proves it: {proof.reason}" if proof.is_wrong_at(loaded) else ""

    async def _answers(self, name: str) -> bool:
        """Whether a model answers most of what the champion has refused: otherwise the events are to blame."""
        payloads = tuple(self._refusals.payloads)
        if self._asked == (name, payloads) or self._proof(name).model is None:
            return False
        asked = answered = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(ASKED_S):
                for payload in payloads:
                    with suppress(InvalidEvent, InferenceError):
                        event = decode_event(payload).within_readout()
                        asked += 1
                        await self._proof(name).infer([event])
                        answered += 1
        if 2 * answered > asked:
            return True
        self._asked = (name, payloads)
        return False

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
                epoch += 1
            else:
                self._log.warning("somebody else has changed the serving state: is there another deployer?")
        self._metrics.epoch(epoch)
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

    async def _loaded(self) -> Loaded:
        """The models that each server has loaded, without servers that are away; raises OSError."""
        addresses = await self._addresses(self._settings.triton_url)
        if self._settings.triton_own:
            self._own = frozenset(map(_without_scheme, await self._addresses(self._settings.triton_own)))
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

    @staticmethod
    async def _addresses(url: str) -> list[str]:
        servers, failed = await resolve(url)
        if failed:  # one that is not known may lack what is to be served
            raise OSError("; ".join(f"{name} has no address: {reason}" for name, reason in failed.items()))
        return list(dict.fromkeys(server.address for server in servers))

    def _served(self, version: Version, loaded: Loaded, withdrawn: dict[str, str]) -> Served:
        """The version, if every server that is there has loaded and proved it; otherwise a step towards that, and NotServed."""
        name = self._repository.name(version)
        if why := withdrawn.get(name):
            raise NotServed(f"{why} (icestream models rollback makes the one that is served the champion)")
        checkpoint = self._proved(name, loaded, version)
        if checkpoint != version.checkpoint:
            raise NotServed(f"Triton serves as {name} what is made of {checkpoint}: restart the deployer")
        return Served(version=version.version, name=name)

    def _proved(self, name: str, loaded: Loaded, version: Version | None = None) -> str:
        """The checkpoint of a model that every server that is there has loaded and proved; as of `_hold`."""
        self._hold(name, loaded, version)
        proof = self._proof(name)
        if not proof.is_proved_at(loaded) or proof.model is None:
            raise NotServed(f"not every Triton has proved it: {proof.reason}")
        return proof.model.checkpoint

    def _proof(self, name: str) -> CheckedModel:
        if name not in self._proofs:
            self._proofs[name] = self._connect(name)
        return self._proofs[name]

    def _hold(self, name: str, loaded: Loaded, version: Version | None = None) -> None:
        """Have a model loaded by every server that is there; raises NotServed while it is not.

        Args:
            version: whose files are fetched if they are not there.
        """
        if not loaded:
            raise NotServed(self._away)
        if not self._repository.has(name):
            if version is None:
                raise NotServed("its files are gone")
            self._take_step((name, ""), lambda: in_thread(lambda: self._repository.add(version, self._registry)))
            raise NotServed("its files are being fetched")
        lacking = [address for address, models in loaded.items() if name not in models]
        for address in filter(self._loads_into, lacking):
            self._take_step((name, address), lambda address=address: self._controls[address].load(name))  # type: ignore[misc]
        if lacking:
            raise NotServed("it is being loaded")

    def _loads_into(self, address: str) -> bool:
        return self._own is None or _without_scheme(address) in self._own

    def _take_step(self, key: tuple[str, str], begin: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begin a step in the background unless it is under way; raises NotServed if it has failed lately."""
        task = self._steps.get(key)
        if task and task.done():
            del self._steps[key]
            error = None if task.cancelled() else task.exception()
            if error and not isinstance(error, TritonUnavailable):  # which is away, and may be back at once
                self._failures[key] = (time.monotonic(), str(error))
        failed_s, why = self._failures.get(key, (-math.inf, ""))
        if time.monotonic() - failed_s < AGAIN_S:
            raise NotServed(why)
        if key not in self._steps:
            self._steps[key] = asyncio.create_task(begin())

    async def _unload_unwanted(self, wanted: set[str], loaded: Loaded) -> None:
        """Unload and delete what no alias has wanted for a while. The model that Triton has from the start stays."""
        self._unwanted = {name: since_s for name, since_s in self._unwanted.items() if name not in wanted}
        own = set(filter(self._loads_into, self._controls))
        if not own or own - loaded.keys():
            return  # one that is away may have loaded what would be deleted
        for name in self._repository.names() - wanted:
            if time.monotonic() - self._unwanted.setdefault(name, time.monotonic()) < self._settings.grace_s:
                continue
            if name in self._proofs:
                await self._proofs.pop(name).close()
            if having := [address for address in own if name in loaded[address]]:
                for address in having:
                    await self._controls[address].unload(name)
            else:  # at a later look: unloading takes seconds
                await in_thread(lambda name=name: self._repository.remove(name))  # type: ignore[misc]
                del self._unwanted[name]
                self._log.info("removed a model that no alias asks for", model=name)

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


def _without_scheme(address: str) -> str:
    return address.removeprefix("ipv4:").removeprefix("ipv6:")
