"""The emitter's settings."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import SettingsConfigDict

from icestream.service.settings import StreamSettings
from icestream.sources.replay import KINDS, is_replay


def _known_source(text: str) -> str:
    if text != "simulate" and not is_replay(text):
        raise ValueError(f"a source is {KINDS}")
    return text


def _rate(value: object) -> object:
    try:
        if value == "max" or 0 < float(str(value)) < float("inf"):
            return value
    except ValueError:
        pass
    raise ValueError("a rate is `max` or a number of events/s above 0")


class EmitterSettings(StreamSettings):
    """Bring simulated or recorded events into the stream."""

    model_config = SettingsConfigDict(env_prefix="ICESTREAM_EMITTER_")

    source: Annotated[str, AfterValidator(_known_source)] = Field(
        "simulate",
        description="simulate, kaggle:DIR for the competition's Parquet files, or graphnet:FILE for a database of GraphNeT's",
    )
    rate: Annotated[float | Literal["max"], BeforeValidator(_rate)] = Field(
        100.0, description="events/s with Poisson gaps, or max for as fast as possible"
    )
    count: int | None = Field(
        None, ge=1, lt=2**63, description="stop after this many events (default: never, or at the end of the files)"
    )
    loop: bool = Field(False, description="repeat a replayed folder; each pass is a run of its own")
    seed: int = Field(
        42,
        ge=0,
        description="of the simulation and of the gaps; 1, 2 and 3 are what the weights were trained, evaluated and calibrated on",
    )
    run_id: int | None = Field(
        None, ge=0, lt=2**63, description="id of this run; an existing run is resumed (default: the time in ms)"
    )
    geometry: Path | None = Field(
        None, description="sensor_geometry.csv to simulate with (default: nominal IceCube-86)"
    )
    ice: Path | None = Field(None, description="ice_transparency.txt to simulate with")
    max_backlog: int = Field(10_000, ge=1, description="entries in the stream at which the emitter waits")
    max_backlog_mb: int = Field(
        256, ge=1, description="MB of the stream in Redis at which the emitter waits; below Redis's maxmemory"
    )
    durability: Literal["primary", "replicated"] = Field(
        "primary",
        description="replicated: an event counts as written when a replica of Redis has it as well, so that a failover loses none",
    )
    metrics_port: int = Field(9101, ge=0, le=65535, description="port of /metrics")
