"""The display's settings."""

from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import SettingsConfigDict

from icestream.service.settings import HttpUrl, TritonSettings, readable


def _not_empty(path: Path) -> Path:
    if not readable(path).read_text().strip():
        raise ValueError(f"{path} is empty: put the token into it")
    return path


def _valid_networks(text: str) -> str:
    networks(text)
    return text


def networks(text: str) -> list[IPv4Network | IPv6Network]:
    """The networks in a list with commas; raises ValueError."""
    return [ip_network(part.strip()) for part in text.split(",") if part.strip()]


class DisplaySettings(TritonSettings):
    """Show the stream on a page, and answer by REST."""

    model_config = SettingsConfigDict(env_prefix="ICESTREAM_DISPLAY_")

    model: str = Field("icemix", description="the model's name in Triton, until a deployer says which one is served")
    host: str = Field("127.0.0.1", description="address of the page and of REST; 0.0.0.0 for all interfaces")
    port: int = Field(8080, ge=0, le=65535, description="port of the page and of REST")
    token_file: Annotated[Path, AfterValidator(_not_empty)] | None = Field(
        None, description="a file that holds the token that REST and page require (default: none)"
    )
    requests_per_s: int = Field(20, ge=1, description="requests per second, URL and client IP address")
    trusted_proxies: Annotated[str, AfterValidator(_valid_networks)] = Field(
        "",
        description="IP addresses or networks of reverse proxies, with commas; what they say of the client's address, of the host, the scheme and the path prefix is believed",
    )
    allowed_hosts: str = Field(
        "",
        description="names (or name:port) by which browsers reach it, with commas, beside localhost and addresses in digits",
    )
    request_timeout_s: float = Field(20.0, gt=0, description="seconds after which a request to Triton has failed")
    mlflow_page: HttpUrl | None = Field(None, description="MLflow's address in a browser, for the page's link to it")
    grafana_page: HttpUrl | None = Field(None, description="Grafana's address in a browser, for the page's link to it")
    metrics_port: int = Field(9104, ge=0, le=65535, description="port of /metrics")

    @property
    def links(self) -> dict[str, str]:
        """The page's links to other pages: name → address."""
        return {
            name: address
            for name, address in (("MLflow", self.mlflow_page), ("Grafana", self.grafana_page))
            if address is not None
        }

    @property
    def hosts(self) -> list[str]:
        """The allowed hosts."""
        return [part.strip() for part in self.allowed_hosts.split(",") if part.strip()]

    @property
    def token(self) -> str | None:
        """The content of the token file."""
        return None if self.token_file is None else self.token_file.read_text().strip()
