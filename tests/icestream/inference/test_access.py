"""How servers are found and what a call carries, where files and names are wrong."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from icestream.inference import addresses
from icestream.inference.access import TritonAccess
from icestream.inference.addresses import Server, resolve
from icestream.inference.checked_model import CheckedModel
from icestream.inference.errors import TritonUnavailable


def test_a_name_without_an_address_costs_no_other() -> None:
    servers, failed = asyncio.run(resolve("127.0.0.1:1,does-not-exist.invalid:8001,[::1]:2"))
    assert servers == [Server("127.0.0.1:1", ""), Server("ipv6:[::1]:2", "")]
    assert failed.keys() == {"does-not-exist.invalid"}


def test_a_name_whose_look_up_hangs_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async def look_up() -> tuple[list[Server], dict[str, str]]:
        loop = asyncio.get_running_loop()
        found = loop.getaddrinfo

        async def getaddrinfo(host: str, *arguments: Any, **options: Any) -> Any:
            if host == "slow.example.org":
                await asyncio.Event().wait()
            return await found(host, *arguments, **options)

        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
        return await resolve("slow.example.org:1,127.0.0.1:2")

    monkeypatch.setattr(addresses, "LOOKUP_S", 0.1)
    servers, failed = asyncio.run(look_up())
    assert servers == [Server("127.0.0.1:2", "")]
    assert failed == {"slow.example.org": "no answer within 0.1 s"}


def test_addresses_are_found_by_name_and_keep_it() -> None:
    servers, failed = asyncio.run(resolve("dns:///localhost:8001"))
    assert not failed
    assert {server.host for server in servers} == {"localhost"}
    assert asyncio.run(resolve("ipv4:10.0.0.1:1,10.0.0.2:2")) == (
        [Server("ipv4:10.0.0.1:1", ""), Server("ipv4:10.0.0.2:2", "")],
        {},
    )


@pytest.mark.parametrize("content", [b"", b"two words", b"two\nlines", b"\xff\xfe", "schlüssel".encode()])
def test_a_file_that_holds_no_token_is_named_and_no_call_is_made(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    access = TritonAccess(url="localhost:1", tls=True, token_file=file)
    with pytest.raises(TritonUnavailable, match=str(file)) as error:
        access.metadata()
    assert not error.value.asked
    file.write_text("right\n")
    assert access.metadata() == [("authorization", "Bearer right")]


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.05)


def test_an_authority_that_cannot_be_read_is_named_and_tried_again(tmp_path: Path) -> None:
    async def use() -> None:
        file = tmp_path / "ca.pem"
        model = CheckedModel(TritonAccess(url="127.0.0.1:1", tls=True, ca_file=file), "icemix", 5)
        try:
            await _until(lambda: str(file) in model.reason)
            file.write_text("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
            await _until(lambda: str(file) not in model.reason)
        finally:
            await model.close()

    asyncio.run(use())
