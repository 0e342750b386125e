"""The servers behind an address as gRPC writes it."""

import asyncio
import ipaddress
import socket
from typing import NamedTuple

LOOKUP_S = 5.0  # of one name


class Server(NamedTuple):
    """One server: its address, and the name that it was looked up by (empty if it has none)."""

    address: str
    host: str


async def resolve(url: str) -> tuple[list[Server], dict[str, str]]:
    """The servers, and the names that have no address now, each with the reason.

    Args:
        url: host:port, or several with commas; a name stands for all of its addresses. Also dns:///host:port, ipv4:host:port,host:port
            and unix:path.
    """
    scheme, _, rest = url.partition(":")
    if scheme in ("ipv4", "ipv6"):
        return [Server(f"{scheme}:{part.removeprefix(f'{scheme}:')}", "") for part in rest.split(",")], {}
    if scheme == "unix":
        return [Server(url, "")], {}
    names = [part.strip().removeprefix("dns:///").removeprefix("dns:") for part in url.split(",")]
    looked_up = await asyncio.gather(*map(_look_up, names))
    found = [server for servers, _ in looked_up for server in servers]
    failed = {_host(name): reason for name, (_, reason) in zip(names, looked_up, strict=True) if reason}
    return list(dict.fromkeys(found)), failed


async def _look_up(name: str) -> tuple[list[Server], str]:
    """The servers of a name, or why there are none."""
    try:
        async with asyncio.timeout(LOOKUP_S):
            return await _servers(name), ""
    except TimeoutError:
        return [], f"no answer within {LOOKUP_S:g} s"
    except (OSError, UnicodeError) as error:
        return [], str(error) or repr(error)


def _host(name: str) -> str:
    return name.rpartition(":")[0].strip("[]")


async def _servers(name: str) -> list[Server]:
    host, port = _host(name), name.rpartition(":")[2]
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    else:
        return [Server(f"ipv6:[{ip}]:{port}" if ip.version == 6 else name, "")]
    addresses = sorted({(family, str(address[0])) for family, _, _, _, address in found})
    return [
        Server(f"ipv6:[{ip}]:{port}" if family == socket.AF_INET6 else f"ipv4:{ip}:{port}", host)
        for family, ip in addresses
    ]
