"""How servers are found and what a call carries, where files and names are wrong."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from icestream.inference import addresses, checked_model
from icestream.inference.access import TritonAccess
from icestream.inference.addresses import Server, resolve
from icestream.inference.checked_model import CheckedModel
from icestream.inference.errors import TritonUnavailable
from tests.front import Front
from tests.servers import TritonProcess
from tritonserver.process import HOST


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


@pytest.fixture
def front(triton: TritonProcess, authority: trustme.CA, tls: bool) -> Iterator[Front]:
    """Before Triton, as localhost."""
    one = authority.issue_cert("localhost")
    pair = (one.private_key_pem.bytes(), b"".join(part.bytes() for part in one.cert_chain_pems))
    front = Front(triton.url, grpc.ssl_server_credentials([pair]) if tls else None)
    yield front
    front.close()


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    """One whose certificate is in ca.pem."""
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "ca.pem")
    return made


def as_localhost(front: Front, tls: bool, ca_file: Path) -> CheckedModel:
    url = front.url.replace(HOST, "localhost")
    return CheckedModel(TritonAccess(url=url, tls=tls, ca_file=ca_file if tls else None), "icemix", 30)


@pytest.mark.parametrize("tls", [True])
def test_an_authority_that_is_renewed_is_read_again(
    front: Front, authority: trustme.CA, tls: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checked_model, "CONNECTED_S", 1.0)
    file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(file)

    async def use() -> None:
        model = as_localhost(front, tls, file)
        try:
            await _until(lambda: "CERTIFICATE_VERIFY_FAILED" in model.reason)
            authority.cert_pem.write_to_path(file)
            await _until(lambda: model.model is not None)
        finally:
            await model.close()

    asyncio.run(use())


@pytest.mark.parametrize("tls", [False, True])
def test_a_server_is_told_the_name_that_it_is_asked_by(front: Front, tls: bool, tmp_path: Path) -> None:
    """By which a proxy finds the server behind it."""
    asked = set[str]()

    def note(method: str, request: bytes, reply: bytes, context: Any) -> bytes:
        asked.add(context._rpc_event.call_details.host.decode().split(":")[0])
        return reply

    front.change = note

    async def use() -> None:
        model = as_localhost(front, tls, tmp_path / "ca.pem")
        try:
            await _until(lambda: model.model is not None)
        finally:
            await model.close()

    asyncio.run(use())
    assert asked == {"localhost"}
