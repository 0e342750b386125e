"""The bridge's settings."""

import os
import socket

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from icestream.service.settings import TritonSettings


class BridgeSettings(TritonSettings):
    """Reconstruct the stream's events with a model that Triton serves."""

    model_config = SettingsConfigDict(env_prefix="ICESTREAM_BRIDGE_")

    model: str = Field("icemix", description="the model's name in Triton, until a deployer says which one is served")
    max_batch: int = Field(
        256,
        ge=1,
        le=2048,
        description="events in one request, at most; the model has a limit of its own (max_batch_size)",
    )
    in_flight: int = Field(4, ge=1, description="requests that Triton is given at a time, at most")
    max_held: int = Field(1024, ge=1, description="events held (read and not yet stored) at which no new ones are read")
    max_held_mb: int = Field(64, ge=1, description="MB of those events at which no new ones are read")
    request_timeout_s: float = Field(
        60.0, gt=0, description="seconds after which a request counts as lost and is sent again"
    )
    claim_idle_s: float = Field(
        10.0, ge=0.5, description="seconds without renewal after which the entries of another bridge are claimed"
    )
    drain_s: float = Field(
        20.0, ge=0, description="seconds to finish what is in flight after SIGTERM; the rest goes to other bridges"
    )
    show: bool = Field(
        False, description="keep the most confident event of each second with its pulses, for the display"
    )
    challenger: bool = Field(
        False,
        description="be the challenger's bridge: answer copies of some events by the challenger, while there is one",
    )
    consumer: str = Field(
        f"{socket.gethostname()}-{os.getpid()}", description="name in the consumer group, unique among bridges"
    )
    metrics_port: int = Field(9102, ge=0, le=65535, description="port of /metrics")
