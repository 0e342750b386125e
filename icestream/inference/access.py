"""How servers are reached, and as whom: addresses, TLS, and what each call carries."""

import re
import ssl
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from icestream.event import Event
from icestream.inference.errors import TritonUnavailable


@dataclass(frozen=True, kw_only=True)
class TritonAccess:
    """One or several Tritons that serve the same.

    Attributes:
        url: of the gRPC service: host:port, dns:///name:port, ipv4:host:port,host:port, or several names with commas.
        tls: whether it speaks TLS.
        ca_file: the authority that has signed its certificate, PEM; the system's, if None.
        token_file: holds the bearer token of each call; it is read again for each, since tokens expire.
        headers: further metadata of each call.
        prefix: what stands before the name of every model there.
        traceparent: the W3C trace context of a request with these events; empty if it has none.
    """

    url: str
    tls: bool = False
    ca_file: Path | None = None
    token_file: Path | None = None
    headers: Sequence[tuple[str, str]] = ()
    prefix: str = ""
    traceparent: Callable[[Iterable[Event]], str] | None = None

    def channel(self, address: str, host: str, options: Sequence[tuple[str, Any]]) -> Any:
        """A channel to one server; raises OSError if the file of the authority cannot be read.

        Args:
            address: of the server.
            host: the name that it is asked by, and that its certificate has to have; empty for the address itself.
        """
        if not self.tls:
            named = [("grpc.default_authority", f"{host}:{address.rpartition(':')[2]}")] if host else []
            return grpc.aio.insecure_channel(address, options=[*options, *named])
        authority = self.ca_file or ssl.get_default_verify_paths().cafile
        credentials = grpc.ssl_channel_credentials(Path(authority).read_bytes() if authority else None)
        named = [("grpc.ssl_target_name_override", host), ("grpc.default_authority", host)] if host else []
        return grpc.aio.secure_channel(address, credentials, options=[*options, *named])

    def metadata(self) -> list[tuple[str, str]]:
        """Of one call; raises TritonUnavailable while there is no token."""
        if self.token_file is None:
            return list(self.headers)
        try:
            token = self.token_file.read_text().strip()
        except (OSError, ValueError) as error:
            raise TritonUnavailable(f"{self.token_file} cannot be read: {error}", asked=False) from None
        if not re.fullmatch(r"[\x21-\x7e]+", token):
            raise TritonUnavailable(f"{self.token_file} holds no token: it must be one word", asked=False)
        return [*self.headers, ("authorization", f"Bearer {token}")]
