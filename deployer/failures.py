"""Whether the champion fails while the model before it would answer; nothing but hard facts count."""

import asyncio
import time
from contextlib import suppress

from deployer.refusals import Refusals
from deployer.tritons import Tritons
from icestream.event import InvalidEvent
from icestream.inference.errors import InferenceError
from icestream.streams.connection import AsyncRedis
from icestream.streams.serving import Serving
from icestream.wire import decode_event

ASKED_S = 5.0  # for the answers of the one before to what the champion refused
WRONG_S = 5.0  # for which no Triton proves the champion, before it is withdrawn


class Failures:
    """Of the champion. Ask at every look."""

    def __init__(self, redis: AsyncRedis, tritons: Tritons):
        self._tritons, self._refusals = tritons, Refusals(redis)
        self._asked: tuple[str, tuple[bytes, ...]] | None = (
            None  # a model for events that the champion refused, in vain
        )
        self._wrong: tuple[str, float] | None = None  # a champion that no Triton proves, since when

    async def reason(self, serving: Serving) -> str:
        """Why the champion is to be withdrawn; empty if it is not. Raises RedisError, InferenceError."""
        champion, previous = serving.champion, serving.previous
        refused = await self._refusals.too_many(champion.name)
        if previous is None or not self._tritons.loaded:
            self._wrong = None
            return ""
        if wrong := await self._wrong_answers(champion.name):
            return wrong
        return refused if refused and await self._answers(previous.name) else ""

    async def _wrong_answers(self, name: str) -> str:
        """In words, if no Triton has proved a model for WRONG_S; otherwise empty."""
        proof = self._tritons.proof(name)
        if not proof.is_wrong_at(self._tritons.loaded):
            self._wrong = None
            return ""
        if self._wrong is None or self._wrong[0] != name:
            self._wrong = (name, time.monotonic())
        if time.monotonic() - self._wrong[1] < WRONG_S:
            return ""
        await proof.prove()
        return f"no Triton proves it: {proof.reason}" if proof.is_wrong_at(self._tritons.loaded) else ""

    async def _answers(self, name: str) -> bool:
        """Whether a model answers most of what the champion has refused: otherwise the events are to blame."""
        payloads = tuple(self._refusals.payloads)
        if self._asked == (name, payloads) or self._tritons.proof(name).model is None:
            return False
        asked = answered = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(ASKED_S):
                for payload in payloads:
                    with suppress(InvalidEvent, InferenceError):
                        event = decode_event(payload).within_readout()
                        asked += 1
                        await self._tritons.proof(name).infer([event])
                        answered += 1
        if 2 * answered > asked:
            return True
        self._asked = (name, payloads)
        return False
