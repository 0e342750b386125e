"""An address of Redis that names servers which know where the primary is: Sentinels, or the nodes of a cluster."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

SCHEMES = ("redis+sentinel://", "redis+cluster://")
PATTERN = re.compile(
    r"redis\+(?P<kind>sentinel|cluster)://((?P<user>[^:@/]*)(:(?P<password>[^@/]*))?@)?(?P<hosts>[^/@]+)(/(?P<name>[\w.-]+))?/?$"
)


@dataclass(frozen=True, kw_only=True)
class Several:
    """Servers that know where the primary is.

    Attributes:
        name: of the primary, where they are Sentinels; empty where they are nodes of a cluster.
        login: user and password of Redis; Sentinels are asked without.
    """

    hosts: Sequence[tuple[str, int]]
    name: str
    login: dict[str, Any]

    @classmethod
    def of(cls, url: str) -> "Several | None":
        """From redis+sentinel://user:password@host:port,host:port/NAME or redis+cluster://…; None where it is neither.

        Raises:
            ValueError: it is one of them, but wrong.
        """
        if not url.startswith(SCHEMES):
            return None
        match = PATTERN.match(url)
        if match is None or (match["kind"] == "sentinel") != bool(match["name"]):
            raise ValueError(
                "is not redis+sentinel://user:password@host:port,host:port/NAME or redis+cluster://user:password@host:port,host:port: "
                "write / # ? @ of a password as %2F %23 %3F %40"
            )
        hosts = []
        for part in match["hosts"].split(","):
            host, _, port = part.rpartition(":")
            if not (host and port.isdigit() and 0 < int(port) < 65536):
                raise ValueError("must give each host with its port, as host:port,host:port")
            hosts.append((host.strip("[]"), int(port)))
        login = {
            key: unquote(value)
            for key, value in (("username", match["user"]), ("password", match["password"]))
            if value
        }
        return cls(hosts=hosts, name=match["name"] or "", login=login)
