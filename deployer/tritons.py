"""The Tritons as one: what all of them have loaded and proved, and the steps to there."""

import asyncio
import math
import time
from collections.abc import Callable, Coroutine
from typing import Any

from deployer.repository import Repository
from icestream.inference.addresses import Server, resolve
from icestream.inference.checked_model import CheckedModel
from icestream.inference.control import ModelControl
from icestream.inference.errors import InferenceError, TritonUnavailable
from icestream.registry import Registry, Version
from icestream.service.logs import Log
from icestream.tasks import cancel, in_thread

AGAIN_S = 30.0  # after which a version that could not be fetched or loaded is tried again


class NotServed(Exception):
    """A version cannot be served now; the message says why."""


class Tritons:
    """Use inside a running event loop, look first, and close it.

    Args:
        url: of all of them.
        own: of those that models are loaded into; all, if empty.
        key: of Triton's model control, where that is restricted.
        connect: makes the `CheckedModel` of a name in Triton.

    Attributes:
        loaded: the models that each server that is there had loaded at the last look, by address.
    """

    def __init__(
        self,
        url: str,
        *,
        own: str,
        key: str,
        repository: Repository,
        registry: Registry,
        connect: Callable[[str], CheckedModel],
        log: Log,
    ):
        self.loaded: dict[str, set[str]] = {}
        self._url, self._own_url, self._key = url, own, key
        self._repository, self._registry, self._connect, self._log = repository, registry, connect, log
        self._proofs: dict[str, CheckedModel] = {}  # by name in Triton
        self._controls: dict[str, ModelControl] = {}  # by address
        self._own = frozenset[str]()  # addresses of those that models are loaded into
        self._servers: dict[str, list[Server]] = {}  # by the URL that they were looked up by
        self._unknown: list[str] = []  # names that have no address now, and why
        self._away = ""  # why none is there
        self._steps: dict[tuple[str, str], asyncio.Task[None]] = {}  # (name, address) being loaded, (name, "") fetched
        self._failures: dict[tuple[str, str], tuple[float, str]] = {}  # when and why the last of those failed
        self._unwanted: dict[str, float] = {}  # name → since when

    async def close(self) -> None:
        """Close all connections."""
        await cancel(self._steps.values())
        for proof in self._proofs.values():
            await proof.close()

    async def look(self) -> None:
        """See what each has loaded; one that is away, or whose name never had an address, is left out."""
        self._unknown = []
        addresses = await self._addresses(self._url)
        self._own = frozenset(
            map(_without_scheme, await self._addresses(self._own_url) if self._own_url else addresses)
        )
        self._controls = {address: ModelControl(address, self._key) for address in addresses}
        self._away = "; ".join(self._unknown)
        found = await asyncio.gather(*(self._loaded(control) for control in self._controls.values()))
        self.loaded = {address: models for address, models in zip(addresses, found, strict=True) if models is not None}

    async def _loaded(self, control: ModelControl) -> set[str] | None:
        try:
            return await control.loaded()
        except InferenceError as error:  # it is away, or does not take the key
            self._away = str(error)
            return None

    async def _addresses(self, url: str) -> list[str]:
        """Those that there are now; the servers of a name that cannot be looked up stay."""
        servers, failed = await resolve(url)
        servers += [server for server in self._servers.get(url, ()) if server.host in failed]
        self._servers[url] = servers
        self._unknown += [f"{name} has no address: {reason}" for name, reason in failed.items()]
        return list(dict.fromkeys(server.address for server in servers))

    def proved(self, name: str, version: Version | None = None) -> str:
        """The checkpoint of a model that every server that is there has loaded and proved; as of `hold`."""
        self.hold(name, version)
        proof = self.proof(name)
        checkpoints = proof.checkpoints_at(self.loaded)
        if not checkpoints:
            raise NotServed(f"not every Triton has proved it: {proof.reason}")
        if len(checkpoints) > 1:
            raise NotServed(f"the Tritons serve as {name} what is made of {' and '.join(sorted(checkpoints))}")
        return checkpoints.pop()

    def proof(self, name: str) -> CheckedModel:
        if name not in self._proofs:
            self._proofs[name] = self._connect(name)
        return self._proofs[name]

    def hold(self, name: str, version: Version | None = None) -> None:
        """Have a model loaded by every server that is there; raises NotServed while it is not.

        Args:
            version: whose files are fetched if they are not there.
        """
        if not self.loaded:
            raise NotServed(self._away)
        if not self._repository.has(name):
            if version is None:
                raise NotServed("its files are gone")
            self._take_step((name, ""), lambda: in_thread(lambda: self._repository.add(version, self._registry)))
            raise NotServed("its files are being fetched")
        lacking = [address for address, models in self.loaded.items() if name not in models]
        for address in filter(self._loads_into, lacking):
            self._take_step((name, address), lambda address=address: self._controls[address].load(name))  # type: ignore[misc]
        if lacking:
            raise NotServed("; ".join(["it is being loaded", *self._unknown]))

    def _loads_into(self, address: str) -> bool:
        return _without_scheme(address) in self._own

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

    async def unload_unwanted(self, wanted: set[str], grace_s: float) -> None:
        """Unload and delete what no alias has wanted for a while. The model that Triton has from the start stays."""
        self._unwanted = {name: since_s for name, since_s in self._unwanted.items() if name not in wanted}
        own = set(filter(self._loads_into, self._controls))
        if self._unknown or not own or own - self.loaded.keys():
            return  # one that is away may have loaded what would be deleted
        for name in self._repository.names() - wanted:
            if time.monotonic() - self._unwanted.setdefault(name, time.monotonic()) < grace_s:
                continue
            if name in self._proofs:
                await self._proofs.pop(name).close()
            if having := [address for address in own if name in self.loaded[address]]:
                for address in having:
                    await self._controls[address].unload(name)
            else:  # at a later look: unloading takes seconds
                await in_thread(lambda name=name: self._repository.remove(name))  # type: ignore[misc]
                del self._unwanted[name]
                self._log.info("removed a model that no alias asks for", model=name)


def _without_scheme(address: str) -> str:
    return address.removeprefix("ipv4:").removeprefix("ipv6:")
