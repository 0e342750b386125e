"""The servers behind an address as gRPC writes it."""

import asyncio
import ipaddress
import socket


async def resolve(url: str) -> list[str]:
    """An address for each server: the parts of ipv4:host:port,host:port, or all addresses of the name in host:port.

    Raises:
        OSError: the name has no address.
    """
    scheme, _, rest = url.partition(":")
    if scheme in ("ipv4", "ipv6"):
        return [f"{scheme}:{part}" for part in rest.split(",")]
    if scheme == "unix":
        return [url]
    host, _, port = url.removeprefix("dns:///").removeprefix("dns:").rpartition(":")
    host = host.strip("[]")
    try:
        ipaddress.ip_address(host)
        return [url.removeprefix("dns:///")]
    except ValueError:
        pass
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = {(family, str(address[0])) for family, _, _, _, address in found}
    return sorted(
        f"ipv6:[{ip}]:{port}" if family == socket.AF_INET6 else f"ipv4:{ip}:{port}" for family, ip in addresses
    )
