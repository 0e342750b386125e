"""One model on one or several Tritons, each of which has to prove it: only a server that gives the known answers is asked.

A server has to prove its model again whenever the connection to it was lost, when its configuration or version is another one, and
every PROVED_S. A server that does not respond is left out until it does. One that turned a request away, or failed at what another
has answered, is left out for a pause that grows, as long as another can be asked. Requests name the version that was proved.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from icestream.event import Event
from icestream.inference.access import TritonAccess
from icestream.inference.addresses import Server, resolve
from icestream.inference.client import Answer, TritonClient
from icestream.inference.errors import ModelMismatch, RequestRefused, TritonUnavailable
from icestream.inference.model import ModelDescription
from icestream.tasks import cancel
from icestream.tensors import Arrays, pad, padded_length

LOOK_S = 1.0  # between two looks at a server
OVERLOADED_S = 16.0  # at most, while it turns requests away
RESOLVE_S = 10.0  # between two looks at the addresses of a name
PROVED_S = 30.0  # after which the known answers are asked for again
CONNECTED_S = 30.0  # without a good look, after which the connection is made anew: it may be dead, or the authority's file another one
SHUNNED_S = 1.0  # at first
LONGEST_SHUNNED_S = 60.0
FORGIVEN = 0.9  # of the next pause is left after each answer
FLAKES = 3  # looks in a row at which the server is not reached over a connection that stands, before it has to prove its model again
STATES = ("proved", "away", "wrong")


@dataclass(frozen=True, kw_only=True)
class Inference:
    """The answer to a batch, what was sent, and the proved model that answered."""

    inputs: Arrays
    answer: Answer
    model: ModelDescription


class Endpoint:
    """One server."""

    def __init__(self, connect: Callable[[], TritonClient]):
        self._connect, self.client = connect, connect()
        self._seen_s, self._flakes = time.monotonic(), 0
        self._shunned_s, self._shunned_until_s = 0.0, 0.0  # the latest pause, and its end
        self.proved: ModelDescription | None = None
        self.responds, self.overloaded = True, False
        self.state, self.reason = "away", "it was not asked yet"
        self._incarnation, self._proved_s = -1, 0.0
        self._looking = asyncio.Lock()
        self.proofs: dict[int, asyncio.Task[bool]] = {}  # by padded length, the latest
        self.requests: set[asyncio.Task[Answer]] = set()

    @property
    def usable(self) -> bool:
        return self.proved is not None and self.responds and self._incarnation == self.client.incarnation

    @property
    def shunned(self) -> bool:
        return time.monotonic() < self._shunned_until_s

    def shun(self) -> None:
        """It turned a request away, or failed at one that another server has answered."""
        if not self.shunned:
            self._shunned_s = min(max(2 * self._shunned_s, SHUNNED_S), LONGEST_SHUNNED_S)
            self._shunned_until_s = time.monotonic() + self._shunned_s

    def answered(self) -> None:
        """It has answered a request."""
        self._shunned_s = self._shunned_s * FORGIVEN if self._shunned_s > SHUNNED_S else 0.0

    def prove(self, length: int) -> "asyncio.Task[bool]":
        """Whether it gives the known answers now, at this padded length, too; one that is still asked is not asked twice."""
        if (task := self.proofs.get(length)) is None or task.done():
            task = self.proofs[length] = asyncio.create_task(self._prove(length))
        return task

    async def _prove(self, length: int) -> bool:
        await self.look(prove=True)
        return self.usable and await self._answers_at(length)

    def has_timed_out(self) -> None:
        """It has not answered a request in time: it has to give its known answers before it is asked again."""
        self.responds, self._proved_s = False, 0.0
        self.state, self.reason = "away", f"Triton at {self.client.address} has not answered a request in time"

    async def _answers_at(self, length: int) -> bool:
        """Whether the server gives the known answers at this padded length, too."""
        if self.proved is None:
            return False
        try:
            await self.client.check_known_answers(self.proved, length)
        except Exception:  # the next look says it in words
            return False
        return True

    async def look(self, prove: bool = False) -> None:
        """See what the server serves; `prove` asks for the known answers even if nothing has changed."""
        async with self._looking:
            try:
                await self._look(prove)
            except TritonUnavailable as error:
                self.overloaded = error.overloaded
                if error.overloaded and self.proved and time.monotonic() - self._proved_s <= 2 * PROVED_S:
                    return  # nothing was seen: what is proved stays so for a while
                self._flakes += 1
                if not prove and error.asked and not error.timed_out and self.usable and self._flakes < FLAKES:
                    return  # a proxy before it, perhaps
                self.state, self.reason = "away", str(error)
                if error.timed_out:
                    self.responds = False
                else:
                    self.proved = None
                await self._connect_again()
            except ModelMismatch as error:
                self.state, self.reason, self.proved = "wrong", str(error), None
            except Exception as error:  # something that is no Triton, or a reply that nobody has thought of
                reason = f"Triton at {self.client.address} gives a reply that is not understood: {error!r}"
                self.state, self.reason, self.proved = "wrong", reason, None

    async def _look(self, prove: bool) -> None:
        incarnation = self.client.incarnation
        model = await self.client.describe_model(self.proved.version if self.proved else "")
        changed = model != self.proved or incarnation != self._incarnation
        if changed:
            self.proved = None
        if prove or changed or time.monotonic() - self._proved_s > PROVED_S:
            await self.client.check_known_answers(model)
            if incarnation != self.client.incarnation:
                raise TritonUnavailable("the connection was lost while the model was proved")
            self._incarnation, self._proved_s = incarnation, time.monotonic()
            self.proved = self.proved or model
        self._seen_s, self._flakes, self.overloaded = time.monotonic(), 0, False
        if self._proved_s:  # else a request has timed out meanwhile
            self.state, self.reason, self.responds = "proved", "", True

    async def _connect_again(self) -> None:
        """Make the connection anew where nothing was seen for long; what was asked over it ends first, by its own time-out."""
        if not self.requests and time.monotonic() - self._seen_s > CONNECTED_S:
            self._seen_s = time.monotonic()
            try:
                before, self.client = self.client, self._connect()
            except OSError as error:
                self.reason = f"{error.filename} cannot be used: {error.strerror or error}"
                return
            self.proved = None
            with suppress(Exception):
                await before.close()


class CheckedModel:
    """A model that is asked only where it is proved. Use inside a running event loop, and close it.

    Args:
        model: its name, without the prefix of `access`.
        timeout_s: of one inference request.
        changed: called with how many servers are in each of STATES, and with what is wrong in words, when that changes.
    """

    def __init__(
        self,
        access: TritonAccess,
        model: str,
        timeout_s: float,
        *,
        changed: Callable[[dict[str, int], str], None] = lambda states, reason: None,  # noqa: ARG005
    ):
        self._access, self._name, self._timeout_s, self._changed = access, model, timeout_s, changed
        self._endpoints: dict[Server, Endpoint] = {}
        self._tasks: dict[Server, asyncio.Task[None]] = {}
        self._leaving: set[asyncio.Task[None]] = set()  # servers that are no more, and may have requests under way
        self._unresolved = "it was not asked yet"
        self._reported: tuple[dict[str, int], str] | None = None
        self._turn = 0
        self._witnesses = set[Endpoint]()  # servers that gave the answers of the latest proof
        self._proving = asyncio.Lock()
        self._proved_round = (0.0, 0, False)  # when it began, its length, and its outcome
        self._resolving = asyncio.get_running_loop().create_task(self._resolve_forever())

    @property
    def model(self) -> ModelDescription | None:
        """The proved model of a server that would be asked now; None while there is none."""
        return next((endpoint.proved for endpoint in self._usable()), None)

    @property
    def reason(self) -> str:
        """Why no server can be asked, in words; a wrong model before all else."""
        reasons = sorted(
            (endpoint.state != "wrong", endpoint.reason) for endpoint in self._endpoints.values() if endpoint.reason
        )
        return reasons[0][1] if reasons else self._unresolved

    def checkpoints_at(self, addresses: Iterable[str]) -> set[str]:
        """The checkpoints of the models that these servers have proved; empty unless each has."""
        if not all(self._at(address, lambda endpoint: endpoint.usable) for address in addresses):
            return set()
        return {
            endpoint.proved.checkpoint
            for server, endpoint in self._endpoints.items()
            if server.address in addresses and endpoint.proved
        }

    def is_wrong_at(self, addresses: Iterable[str]) -> bool:
        """Whether each of these servers serves something else under this name, or gives other answers than the known ones."""
        return all(self._at(address, lambda endpoint: endpoint.state == "wrong") for address in addresses)

    def _at(self, address: str, holds: Callable[[Endpoint], bool]) -> bool:
        found = [endpoint for server, endpoint in self._endpoints.items() if server.address == address]
        return bool(found) and all(map(holds, found))

    async def infer(self, events: Sequence[Event], failed: set[Endpoint] | None = None) -> Inference:
        """The answer to a batch.

        Args:
            failed: servers that have failed at it, which are asked last; one that fails is added.

        Raises:
            TritonUnavailable: no server is proved, or the one that was asked was lost; ask again.
            RequestRefused: Triton does not take this request, or failed at it.
        """
        failed = set() if failed is None else failed
        turned_away = set[Endpoint]()  # by these, this time
        while True:
            endpoint = self._choose(failed, turned_away)
            model = endpoint.proved
            assert model is not None
            if len(events) > model.max_batch:
                failed.add(endpoint)
                raise RequestRefused(
                    f"{len(events)} events, version {model.version} takes {model.max_batch}", final=False
                )
            inputs = pad(events, max(padded_length(event.n_pulses, model.max_pulses) for event in events))
            context = self._access.traceparent(events) if self._access.traceparent else ""
            try:
                answer = await self._ask(endpoint, inputs, model, context)
            except TritonUnavailable as error:
                if not error.overloaded and error.asked:
                    failed.add(endpoint)
                    raise
                endpoint.shun()
                turned_away.add(endpoint)
                if not self.can_ask_another(failed | turned_away):
                    raise
                continue
            except RequestRefused:
                failed.add(endpoint)
                raise
            endpoint.answered()
            for other in failed - {endpoint}:
                other.shun()
            return Inference(inputs=inputs, answer=answer, model=model)

    def can_ask_another(self, failed: Collection[Endpoint]) -> bool:
        """Whether there is a proved server that is none of these."""
        return any(endpoint not in failed for endpoint in self._usable())

    async def prove(self, length: int = 0) -> bool:
        """Ask every server now for the known answers, padded to this length at least, until one gives them; whether one does."""
        asked_s = time.monotonic()
        async with self._proving:
            began_s, proved_length, proved = self._proved_round
            if began_s < asked_s or proved_length != length:  # else another call has just done it
                began_s = time.monotonic()
                self._witnesses = await self._until_one_proves(length)
                self._proved_round = (began_s, length, proved := bool(self._witnesses))
                self._report()
        return proved and bool(self._usable())

    async def _until_one_proves(self, length: int) -> set[Endpoint]:
        """The servers that give the known answers first; empty where none does. One that hangs holds up no other, and goes on."""
        proofs = {endpoint.prove(length): endpoint for endpoint in self._endpoints.values()}
        pending, witnesses = set(proofs), set[Endpoint]()
        while pending and not witnesses:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            witnesses = {proofs[task] for task in done if not task.cancelled() and task.result()}
        return witnesses

    def tell_again(self) -> None:
        """Call `changed` with the states as they are."""
        self._reported = None
        self._report()

    async def close(self) -> None:
        """Close all connections."""
        await cancel((self._resolving, *self._tasks.values(), *self._leaving))
        for endpoint in self._endpoints.values():
            await cancel(endpoint.proofs.values())
            await endpoint.client.close()

    def _usable(self) -> list[Endpoint]:
        return [endpoint for endpoint in self._endpoints.values() if endpoint.usable]

    def _choose(self, failed: Collection[Endpoint], turned_away: Collection[Endpoint]) -> Endpoint:
        """The server with the fewest requests, if possible one that has not failed at this one; after a failure, one that gave the
        latest known answers; and one that is not shunned.
        """
        usable = self._usable()
        if not usable:
            raise TritonUnavailable(self.reason, asked=False)
        self._turn += 1
        first = self._turn % len(usable)
        in_turn = usable[first:] + usable[:first]

        def last(one: Endpoint) -> tuple[bool | int, ...]:
            unsure = bool(failed) and one not in self._witnesses
            return (one in turned_away, one in failed, unsure, one.shunned, len(one.requests))

        return min(in_turn, key=last)

    async def _ask(self, endpoint: Endpoint, inputs: Arrays, model: ModelDescription, context: str) -> Answer:
        task = asyncio.create_task(endpoint.client.infer(inputs, model.version, context))
        endpoint.requests.add(task)
        try:
            answer = await asyncio.shield(task)
        except TritonUnavailable as error:
            if error.timed_out:
                endpoint.has_timed_out()
            raise
        except asyncio.CancelledError:
            outer = asyncio.current_task()
            if task.cancelled() and outer and not outer.cancelling():
                raise TritonUnavailable(f"Triton at {endpoint.client.address} does not respond") from None
            task.cancel()
            raise
        finally:
            endpoint.requests.discard(task)
        if endpoint.proved is not model:
            raise TritonUnavailable(
                f"Triton at {endpoint.client.address} serves another model than before", asked=False
            )
        return answer

    async def _look_forever(self, endpoint: Endpoint) -> None:
        pause_s = LOOK_S
        while True:
            await endpoint.look()
            pause_s = min(2 * pause_s, OVERLOADED_S) if endpoint.overloaded else LOOK_S
            if not endpoint.responds and self._usable():  # its requests are asked again at another server
                for task in list(endpoint.requests):
                    task.cancel()
            self._report()
            await asyncio.sleep(pause_s)

    async def _resolve_forever(self) -> None:
        while True:
            try:
                await self._follow_addresses()
            except Exception as error:  # what nobody has thought of must not end it
                self._unresolved = f"{self._access.url} cannot be used: {error!r}"
            self._report()
            await asyncio.sleep(RESOLVE_S if self._endpoints else LOOK_S)

    async def _follow_addresses(self) -> None:
        """Ask the servers that there are now. Those of a name that cannot be looked up stay."""
        servers, failed = await resolve(self._access.url)
        self._unresolved = "; ".join(f"{name} has no address: {reason}" for name, reason in failed.items())
        for server in [one for one in self._endpoints if one not in servers and one.host not in failed]:
            self._tasks.pop(server).cancel()
            task = asyncio.create_task(self._leave(self._endpoints.pop(server)))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)
        for server in servers:
            if server not in self._endpoints:
                try:
                    endpoint = Endpoint(
                        lambda server=server: TritonClient(self._access, self._name, self._timeout_s, server=server)  # type: ignore[misc]
                    )
                except OSError as error:
                    self._unresolved = f"{error.filename or self._access.url} cannot be used: {error.strerror or error}"
                    continue
                self._endpoints[server] = endpoint
                self._tasks[server] = asyncio.create_task(self._look_forever(endpoint))

    @staticmethod
    async def _leave(endpoint: Endpoint) -> None:
        """Close the connection to a server that is asked no more, once it has answered what it was asked."""
        await cancel(endpoint.proofs.values())
        try:
            if endpoint.requests:
                await asyncio.wait(endpoint.requests)
        finally:
            with suppress(Exception):
                await endpoint.client.close()

    def _report(self) -> None:
        states = dict.fromkeys(STATES, 0)
        for endpoint in self._endpoints.values():
            states[endpoint.state] += 1
        well = states["proved"] == len(self._endpoints) > 0 and not self._unresolved
        reason = "" if well else self.reason or self._unresolved
        if (states, reason) != self._reported:
            self._reported = (states, reason)
            self._changed(states, reason)
