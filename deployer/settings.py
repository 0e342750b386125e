"""The deployer's settings."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import SettingsConfigDict

from icestream.registry import REGISTERED
from icestream.service.settings import HttpUrl, StreamSettings, readable


class DeployerSettings(StreamSettings):
    """Serve the versions that the model registry's aliases ask for."""

    model_config = SettingsConfigDict(env_prefix="ICESTREAM_DEPLOYER_")

    mlflow_url: HttpUrl = Field("http://127.0.0.1:5000", description="the MLflow server that has the model registry")
    triton_url: str = Field(
        "127.0.0.1:8001",
        description="host:port of Triton's gRPC service; for several, dns:///host:port, ipv4:host:port,host:port, or names with commas",
    )
    triton_own: str = Field(
        "",
        description="host:port of the server whose models this deployer loads, where each has a deployer of its own (default: all)",
    )
    triton_key_file: Annotated[Path, AfterValidator(readable)] | None = Field(
        None, description="a file that holds the key of Triton's model control, where that is restricted"
    )
    registered_model: str = Field(REGISTERED, description="name of the registered model")
    model: str = Field(
        "icemix",
        description="the model that Triton has loaded from the start; it is registered, and the first champion",
    )
    shipped: Path = Field(Path("model_repository"), description="Triton's repository with that model")
    repository: Path = Field(
        Path("models"),
        description="folder for the models of other versions, a repository of every Triton; on a persistent disk",
    )
    poll_s: float = Field(5.0, gt=0, description="seconds between two looks at the aliases")
    grace_s: float = Field(
        60.0, ge=0, description="seconds after which a model that is not wanted any more is unloaded"
    )
    metrics_port: int = Field(9105, ge=0, le=65535, description="port of /metrics")

    @property
    def triton_key(self) -> str:
        """The content of the file."""
        return "" if self.triton_key_file is None else self.triton_key_file.read_text().strip()
