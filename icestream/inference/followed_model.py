"""The model that is served now: another one takes its place as soon as it is proved, between two requests."""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Sequence

from icestream.event import Event
from icestream.inference.access import TritonAccess
from icestream.inference.checked_model import CheckedModel, Endpoint, Inference
from icestream.inference.model import ModelDescription
from icestream.tasks import cancel

LOOK_S = 0.1


class FollowedModel:
    """A `CheckedModel` that can be replaced while requests are under way: those that were sent are answered by the old one.

    Use inside a running event loop, and close it.

    Args:
        access, timeout_s, changed: as of `CheckedModel`; what changes is told of the model that is asked now.
        name: of the first model.
    """

    def __init__(
        self, access: TritonAccess, name: str, timeout_s: float, *, changed: Callable[[dict[str, int], str], None]
    ):
        self._access, self._timeout_s, self._changed = access, timeout_s, changed
        self.name, self._now = name, self._connect(name)
        self._next: tuple[str, CheckedModel] | None = None
        self._requests: Counter[CheckedModel] = Counter()  # under way
        self._retiring: set[asyncio.Task[None]] = set()
        self._taking_over = asyncio.get_running_loop().create_task(self._take_over_forever())

    @property
    def model(self) -> ModelDescription | None:
        """The proved model; None while there is none. May be read from any thread."""
        return self._now.model

    @property
    def reason(self) -> str:
        """Why no server can be asked, in words. May be read from any thread."""
        return self._now.reason

    def follow(self, name: str) -> None:
        """Ask this model as soon as it is proved; nothing changes before."""
        if name == (self._next[0] if self._next else self.name):
            return
        if self._next:
            self._retire(self._next[1])
        self._next = None if name == self.name else (name, self._connect(name))

    async def infer(self, events: Sequence[Event], failed: set[Endpoint] | None = None) -> Inference:
        """The answer of the model of this moment; as of `CheckedModel.infer`."""
        model = self._now
        self._requests[model] += 1
        try:
            return await model.infer(events, failed)
        finally:
            self._requests[model] -= 1

    def can_ask_another(self, failed: Collection[Endpoint]) -> bool:
        """As `CheckedModel.can_ask_another`."""
        return self._now.can_ask_another(failed)

    async def prove(self, length: int = 0) -> bool:
        """As `CheckedModel.prove`."""
        return await self._now.prove(length)

    async def close(self) -> None:
        """Close all connections."""
        await cancel((self._taking_over, *self._retiring))
        for model in {self._now, *self._requests, *([self._next[1]] if self._next else [])}:
            await model.close()

    def _connect(self, name: str) -> CheckedModel:
        def tell(states: dict[str, int], reason: str) -> None:
            if self._now is model:
                self._changed(states, reason)

        model = CheckedModel(self._access, name, self._timeout_s, changed=tell)
        return model

    async def _take_over_forever(self) -> None:
        while True:
            if self._next and self._next[1].model:
                self._retire(self._now)
                (self.name, self._now), self._next = self._next, None
                self._now.tell_again()
            await asyncio.sleep(LOOK_S)

    def _retire(self, model: CheckedModel) -> None:
        task = asyncio.create_task(self._close_when_idle(model))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _close_when_idle(self, model: CheckedModel) -> None:
        while self._requests[model]:
            await asyncio.sleep(LOOK_S)
        del self._requests[model]
        await model.close()
