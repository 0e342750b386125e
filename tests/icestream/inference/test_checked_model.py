"""A model on several servers, whose addresses and replies change."""

import asyncio
from typing import Any

import pytest

from icestream.inference import checked_model
from icestream.inference.access import TritonAccess
from icestream.inference.addresses import Server
from icestream.inference.checked_model import CheckedModel
from icestream.inference.errors import TritonUnavailable
from icestream.inference.model import ModelDescription
from tests.events import event
from tests.servers import TritonProcess

SLOW = event(1, charge=23.0)  # the model `picky` takes 6 s for it


async def proved(model: CheckedModel) -> ModelDescription:
    async with asyncio.timeout(60):
        while model.model is None:
            await asyncio.sleep(0.05)
    return model.model


def test_a_server_that_is_taken_away_still_answers_what_it_was_asked(
    triton: TritonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = [triton.url]

    async def resolve(url: str) -> tuple[list[Server], dict[str, str]]:
        return [Server(address, "") for address in addresses], {}

    async def use() -> None:
        model = CheckedModel(TritonAccess(url="dns:///triton:8001"), "picky", 30)
        try:
            await proved(model)
            asking = asyncio.create_task(model.infer([SLOW]))
            async with asyncio.timeout(10):
                while not any(endpoint.requests for endpoint in model._endpoints.values()):
                    await asyncio.sleep(0.01)
            addresses[:] = [f"ipv4:{triton.url}"]  # the same server by another address
            assert (await asking).answer.direction.tolist() == [[0, 0, 1]]
            await proved(model)
            assert [server.address for server in model._endpoints] == addresses
            assert (await model.infer([event(2)])).answer.direction.tolist() == [[0, 0, 1]]
        finally:
            await model.close()

    monkeypatch.setattr(checked_model, "resolve", resolve)
    monkeypatch.setattr(checked_model, "RESOLVE_S", 0.1)
    asyncio.run(use())


def test_a_request_at_which_a_server_hangs_ends_by_its_time_out_alone(
    triton: TritonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by a connection that is made anew: the event may be to blame."""

    async def use() -> None:
        model = CheckedModel(TritonAccess(url=triton.url), "picky", 8)
        try:
            await proved(model)
            asking = asyncio.create_task(model.infer([SLOW]))
            async with asyncio.timeout(10):
                while not any(endpoint.requests for endpoint in model._endpoints.values()):
                    await asyncio.sleep(0.01)
            triton.pause()
            with pytest.raises(TritonUnavailable) as caught:
                await asking
            assert caught.value.timed_out
            assert caught.value.asked
        finally:
            triton.resume()
            await model.close()

    monkeypatch.setattr(checked_model, "CONNECTED_S", 1.0)
    try:
        asyncio.run(use())
    finally:
        triton.kill()  # its Python backend may end by itself after that, at any time
        triton.start()


def test_a_call_that_is_given_up_is_cancelled(triton: TritonProcess) -> None:
    async def use() -> None:
        model = CheckedModel(TritonAccess(url=triton.url), "picky", 30)
        try:
            await proved(model)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(model.infer([SLOW]), 0.5)
        finally:
            await model.close()

    asyncio.run(use())


def test_a_reply_that_nobody_has_thought_of_is_told_and_looked_at_again(
    triton: TritonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    replies: list[Any] = [ZeroDivisionError("odd"), KeyError("versions")]
    described = checked_model.TritonClient.describe_model
    reported: list[str] = []

    async def describe_model(self: Any, version: str = "") -> ModelDescription:
        if replies:
            raise replies.pop()
        return await described(self, version)

    async def use() -> None:
        model = CheckedModel(
            TritonAccess(url=triton.url), "picky", 30, changed=lambda _, reason: reported.append(reason)
        )
        try:
            await proved(model)
        finally:
            await model.close()

    monkeypatch.setattr(checked_model.TritonClient, "describe_model", describe_model)
    asyncio.run(use())
    assert any("is not understood: KeyError('versions')" in reason for reason in reported)
