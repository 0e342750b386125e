"""Settings of a process: typed, frozen, from the environment or the command line; unknown variables are refused."""

import difflib
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from icestream.service import redis_url
from icestream.service.redis_url import Several

PREFIXES = (
    "ICESTREAM_EMITTER_", "ICESTREAM_BRIDGE_", "ICESTREAM_RECORDER_", "ICESTREAM_DISPLAY_", "ICESTREAM_DEPLOYER_",
)  # fmt: skip
# Variables of compose.yaml that no process reads.
COMPOSE = (
    "ICESTREAM_KAGGLE_DIR", "ICESTREAM_REPLAY_RUN_ID", "ICESTREAM_REDIS_MEMORY", "ICESTREAM_REDIS_MEMORY_LIMIT",
    "ICESTREAM_TRITON_MEMORY_LIMIT", "ICESTREAM_GRAFANA_PORT", "ICESTREAM_PROMETHEUS_PORT",
    "ICESTREAM_MLFLOW_PORT", "ICESTREAM_TRITON_GRPC_PORT", "ICESTREAM_TRITON_METRICS_PORT",
)  # fmt: skip
# Kubernetes sets these in every container for a Service whose name begins with icestream-.
KUBERNETES = re.compile(r"_SERVICE_(HOST|PORT)|_PORT_\d+_(TCP|UDP)|_REDIS_PORT$|_TRITON_PORT$|_MLFLOW_PORT$")

S = TypeVar("S", bound="Settings")


SCHEMES = ("redis://", "rediss://", "unix://", *redis_url.SCHEMES)


def _redis_url(text: str) -> str:
    if not text.startswith(SCHEMES):
        raise ValueError(f"must begin with one of {', '.join(SCHEMES)}")
    if Several.of(text):
        return text
    if not text.startswith("unix://"):
        parts = urlsplit(text)
        try:
            _ = parts.port
        except ValueError:  # its message would repeat what it takes for the port: a part of the password, perhaps
            raise ValueError(
                "is not scheme://user:password@host:port/database: write / # ? @ of a password as %2F %23 %3F %40"
            ) from None
        if parts.path.strip("/") and not parts.path.strip("/").isdigit():
            raise ValueError("the database index behind the last / must be a number")
    return text


def _http_url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    return text


def readable(path: Path) -> Path:
    """A file that must be there; raises ValueError with the reason."""
    try:
        path.read_text()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    return path


RedisUrl = Annotated[str, AfterValidator(_redis_url)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]


class Settings(BaseSettings):
    """Base of each process's settings; a subclass sets `env_prefix`."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", cli_kebab_case=True, cli_implicit_flags=True, cli_hide_none_type=True
    )


class StreamSettings(Settings):
    """Settings that every process of the stream has."""

    redis_url: RedisUrl = Field(
        "redis://127.0.0.1:6379",
        description="the Redis server that holds the streams; also redis+sentinel://host:port,host:port/NAME, redis+cluster://host:port,host:port",
    )
    redis_password_file: Annotated[Path, AfterValidator(readable)] | None = Field(
        None, description="a file that holds Redis's password, so that no address has to"
    )
    metrics_host: str = Field("127.0.0.1", description="address of /metrics")

    @property
    def redis_password(self) -> str | None:
        """The content of the file."""
        return None if self.redis_password_file is None else self.redis_password_file.read_text().strip()


def _headers(text: str) -> str:
    for part in filter(None, text.split(",")):
        name, equals, value = part.strip().partition("=")
        if (
            not re.fullmatch(r"[a-z0-9_.-]+", name)
            or name.endswith("-bin")
            or not equals
            or not re.fullmatch(r"[ -~]*", value)
        ):
            raise ValueError("must be name=value, separated by commas, names in small letters and not of bytes (-bin)")
    return text


class TritonSettings(StreamSettings):
    """Settings of a process that asks Triton for answers."""

    triton_url: str = Field(
        "127.0.0.1:8001",
        description="host:port of Triton's gRPC service; for several, dns:///host:port, ipv4:host:port,host:port, or names with commas",
    )
    triton_tls: bool = Field(
        False, description="speak TLS with Triton; its certificate is verified by the system's CA certificates"
    )
    triton_ca_file: Annotated[Path, AfterValidator(readable)] | None = Field(
        None, description="CA certificate that Triton's is verified by instead, PEM; implies TLS"
    )
    triton_token_file: Annotated[Path, AfterValidator(readable)] | None = Field(
        None, description="a file that holds the bearer token of each request; it is read again, since tokens expire"
    )
    triton_headers: Annotated[str, AfterValidator(_headers)] = Field(
        "", description="further metadata of each request, name=value, separated by commas"
    )
    triton_prefix: str = Field("", description="what stands before the name of every model at that Triton")

    @model_validator(mode="after")
    def _no_token_in_the_clear(self) -> "TritonSettings":
        if (self.triton_token_file or self.triton_headers) and not self.triton_access["tls"]:
            raise ValueError("a token, or headers, go over TLS only: set TRITON_TLS or TRITON_CA_FILE as well")
        return self

    @property
    def triton_access(self) -> dict[str, Any]:
        """The arguments of `icestream.inference.access.TritonAccess`."""
        headers = [part.strip().partition("=") for part in self.triton_headers.split(",") if part]
        return {
            "url": self.triton_url,
            "tls": self.triton_tls or self.triton_ca_file is not None,
            "ca_file": self.triton_ca_file,
            "token_file": self.triton_token_file,
            "headers": tuple((name, value) for name, _, value in headers),
            "prefix": self.triton_prefix,
        }


def load(settings: type[S], program: str, *, command_line: bool = True) -> S:
    """Settings from the environment, overridden by the command line; a wrong one ends the program with a sentence."""
    try:
        _refuse_unknown(settings, os.environ)
        options: dict[str, Any] = {"_cli_parse_args": command_line, "_cli_prog_name": program}
        return settings(**options)
    except ValueError as error:
        for sentence in _sentences(settings, error):
            print(f"{program}: {sentence}", file=sys.stderr)
        sys.exit(2)


def problems(settings: type[Settings], environment: Mapping[str, str]) -> list[str]:
    """What `load` would refuse of an environment, in words."""
    prefix = settings.model_config["env_prefix"]
    try:
        _refuse_unknown(settings, environment)
        settings(**{
            name: environment[prefix + name.upper()] for name in settings.model_fields if prefix + name.upper() in environment
        })  # fmt: skip
    except ValueError as error:
        return _sentences(settings, error)
    return []


def _sentences(settings: type[Settings], error: ValueError) -> list[str]:
    if not isinstance(error, ValidationError):
        return [str(error)]
    prefix = settings.model_config["env_prefix"]
    found = []
    for problem in error.errors():
        if not problem["loc"]:  # of several together
            found.append(f"{prefix}…: {problem['msg'].removeprefix('Value error, ')}")
            continue
        name = str(problem["loc"][0])
        given = (
            "" if name in ("redis_url", "triton_headers") else f" (got {problem.get('input')!r})"
        )  # it may hold a password
        found.append(f"{prefix}{name.upper()}: {problem['msg'].removeprefix('Value error, ')}{given}")
    return found


def _refuse_unknown(settings: type[Settings], environment: Mapping[str, str]) -> None:
    """Raise ValueError for a variable ICESTREAM_* that names no setting of this process and belongs to no other program."""
    prefix = settings.model_config["env_prefix"]
    known = [prefix + name.upper() for name in settings.model_fields]
    others = tuple(other for other in PREFIXES if other != prefix)
    for name in environment:
        foreign = name.startswith(others) or name in COMPOSE or KUBERNETES.search(name)
        if name.startswith("ICESTREAM_") and not foreign and name not in known:
            close = difflib.get_close_matches(name, known, 1)
            raise ValueError(
                f"unknown setting {name}"
                + (f"; did you mean {close[0]}?" if close else f"; valid names: {', '.join(known)}")
            )
