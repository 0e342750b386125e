"""The recorder's settings."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from icestream.service.settings import HttpUrl, StreamSettings
from recorder.reference import SHIPPED


class RecorderSettings(StreamSettings):
    """Record the stream's results in MLflow."""

    model_config = SettingsConfigDict(env_prefix="ICESTREAM_RECORDER_")

    mlflow_url: HttpUrl = Field("http://127.0.0.1:5000", description="the MLflow tracking server")
    experiment: str = Field("icestream", description="the MLflow experiment that runs are put in")
    session: str = Field("", description="a name that is put on the run as the tag icestream.session")
    spool_dir: Path = Field(
        Path("spool"), description="folder for results that MLflow does not have yet; on a persistent disk"
    )
    reference: Path = Field(
        SHIPPED,
        description="reference distributions of the physics charts (recorder/reference.py)",
    )
    window_s: float = Field(5.0, gt=0, description="seconds between two points of the charts")
    part_s: float = Field(60.0, gt=0, description="seconds between two Parquet parts and two sets of pictures")
    run_hours: float = Field(24.0, gt=0, description="hours after which another MLflow run begins")
    keep_days: float = Field(
        0.0, ge=0, description="days after its end that the results of an MLflow run are kept; 0: for ever"
    )
    metrics_port: int = Field(9103, ge=0, le=65535, description="port of /metrics")
