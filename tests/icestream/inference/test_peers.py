"""Servers that lie, flicker, turn requests away, are replaced, or do not agree; before each is the real Triton."""

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from icestream.inference import checked_model
from icestream.inference.access import TritonAccess
from icestream.inference.checked_model import FLAKES, CheckedModel
from icestream.inference.errors import RequestRefused
from tests.events import event
from tests.front import Change, Front
from tests.icestream.inference.test_checked_model import proved
from tests.servers import TritonProcess
from tritonserver.process import HOST

MARKED = 7.0  # charge of the events that a front changes the answer to


@pytest.fixture
def front(triton: TritonProcess) -> Iterator[Front]:
    one = Front(triton.url)
    yield one
    one.close()


def use(url: str, work: Callable[[CheckedModel], Coroutine[Any, Any, None]]) -> None:
    """Do this with the model `picky` at these servers."""

    async def run() -> None:
        model = CheckedModel(TritonAccess(url=url), "picky", 30)
        try:
            await proved(model)
            await work(model)
        finally:
            await model.close()

    asyncio.run(run())


def is_marked(method: str, request: bytes) -> bool:
    return method == "ModelInfer" and np.full(8, MARKED, "<f4").tobytes() in request


def at_marked(change: Callable[[pb.ModelInferResponse], object]) -> Change:
    """Changes the answer to marked events."""

    def changed(method: str, request: bytes, reply: bytes, context: grpc.ServicerContext) -> bytes:
        if not is_marked(method, request):
            return reply
        answer = pb.ModelInferResponse.FromString(reply)
        change(answer)
        return answer.SerializeToString()

    return changed


@pytest.mark.parametrize(
    "change",
    [
        lambda answer: setattr(answer, "model_version", "7"),
        lambda answer: setattr(answer, "model_version", "1" * 400),
        lambda answer: setattr(answer, "model_name", "other"),
        lambda answer: setattr(answer.parameters["note"], "string_param", "x" * 17 * 2**20),
    ],
    ids=["another version", "a version that no result can carry", "another model", "17 MB"],
)
def test_an_answer_of_another_model_or_of_any_size_is_refused(front: Front, change: Callable[[Any], object]) -> None:
    front.change = at_marked(change)

    async def ask(model: CheckedModel) -> None:
        await model.infer([event(1)])
        with pytest.raises(RequestRefused):
            await model.infer([event(2, charge=MARKED)])
        await model.infer([event(3)])

    use(front.url, ask)


def test_a_question_that_fails_now_and_then_takes_no_proof_back(front: Front) -> None:
    failing = threading.Semaphore(0)  # questions that are to fail
    failed = threading.Semaphore(0)

    def flicker(method: str, request: bytes, reply: bytes, context: grpc.ServicerContext) -> bytes:
        if method == "ModelReady" and failing.acquire(blocking=False):
            failed.release()
            context.abort(grpc.StatusCode.UNAVAILABLE, "no healthy upstream")
        return reply

    front.change = flicker

    async def watch(model: CheckedModel) -> None:
        for _ in range(FLAKES - 1):
            failing.release()
        for _ in range(FLAKES - 1):
            while not failed.acquire(blocking=False):
                assert model.model is not None
                await asyncio.sleep(0.01)
        await model.infer([event(1)])

    use(front.url, watch)


def test_after_a_failure_a_server_is_asked_that_gives_the_known_answers(triton: TritonProcess, front: Front) -> None:
    """So that an event is not blamed for a server that answers nothing any more."""

    def answer_nothing(method: str, request: bytes, reply: bytes, context: grpc.ServicerContext) -> bytes:
        if method == "ModelInfer":
            context.abort(grpc.StatusCode.UNAVAILABLE, "upstream connect error")
        return reply

    async def ask(model: CheckedModel) -> None:
        while len(model._usable()) < 2:
            await asyncio.sleep(0.05)
        both = set(model._usable())
        front.change = answer_nothing
        assert await model.prove()
        for number in range(6):
            await model.infer([event(number)], set(both))

    use(f"ipv4:{triton.url},{front.url}", ask)


@pytest.mark.parametrize("code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.PERMISSION_DENIED])
def test_one_that_turns_requests_away_is_left_out_while_there_is_another(
    triton: TritonProcess, front: Front, code: grpc.StatusCode
) -> None:
    turned_away = []

    def turn_away(method: str, request: bytes, reply: bytes, context: grpc.ServicerContext) -> bytes:
        if is_marked(method, request):
            turned_away.append(method)
            context.abort(code, "not now")
        return reply

    async def ask(model: CheckedModel) -> None:
        while len(model._usable()) < 2:
            await asyncio.sleep(0.05)
        front.change = turn_away
        for number in range(40):
            await model.infer([event(number, charge=MARKED)])
        assert len(turned_away) < 20

    use(f"ipv4:{triton.url},{front.url}", ask)


def test_two_that_serve_different_models_of_one_name_are_told_apart(triton: TritonProcess, front: Front) -> None:
    def another_checkpoint(method: str, request: bytes, reply: bytes, context: grpc.ServicerContext) -> bytes:
        if method != "ModelConfig":
            return reply
        answer = pb.ModelConfigResponse.FromString(reply)
        answer.config.parameters["checkpoint"].string_value = "another"
        return answer.SerializeToString()

    front.change = another_checkpoint
    addresses = [f"ipv4:{triton.url}", f"ipv4:{front.url}"]

    async def look(model: CheckedModel) -> None:
        while not model.checkpoints_at(addresses):
            await asyncio.sleep(0.05)
        assert len(model.checkpoints_at(addresses)) == 2
        assert model.checkpoints_at(addresses[1:]) == {"another"}

    use(f"ipv4:{triton.url},{front.url}", look)


class Swallowing:
    """Forwards connections; those that stand can be made to swallow all that comes, as a balancer that has forgotten them."""

    def __init__(self, port: int):
        self._port, self._forgotten = port, threading.Event()
        self._listening = socket.create_server((HOST, 0))
        self.url = f"{HOST}:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def forget(self) -> None:
        self._forgotten.set()
        self._forgotten = threading.Event()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, far = self._listening.accept()[0], socket.create_connection((HOST, self._port))
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(*ends, self._forgotten), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket, forgotten: threading.Event) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if not forgotten.is_set():
                    target.sendall(data)
            target.close()

    def close(self) -> None:
        self._listening.close()


def test_a_connection_that_is_dead_without_a_sign_is_made_anew(
    triton: TritonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checked_model, "CONNECTED_S", 1.0)
    between = Swallowing(triton.grpc)

    async def ask(model: CheckedModel) -> None:
        await model.infer([event(1)])
        between.forget()
        while model.model is not None:
            await asyncio.sleep(0.05)
        await proved(model)
        await model.infer([event(2)])

    try:
        use(between.url, ask)
    finally:
        between.close()
