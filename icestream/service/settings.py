"""Settings of a process: typed, frozen, from the environment or the command line, and nothing unknown."""

import difflib
import os
import sys
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from redis.connection import parse_url

S = TypeVar("S", bound="Settings")


def _redis_url(text: str) -> str:
    parse_url(text)  # type: ignore[no-untyped-call]  # raises ValueError with the schemes it knows
    return text


def _http_url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ValueError("an address begins with http:// or https://")
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
    """What every process of the stream is told."""

    redis_url: RedisUrl = Field("redis://127.0.0.1:6379", description="where the streams live")
    redis_password_file: Annotated[Path, AfterValidator(readable)] | None = Field(
        None, description="a file that holds Redis's password, so that no address has to"
    )
    metrics_host: str = Field("127.0.0.1", description="address of /metrics")

    @property
    def redis_password(self) -> str | None:
        """What the file holds."""
        return None if self.redis_password_file is None else self.redis_password_file.read_text().strip()


def load(settings: type[S], program: str) -> S:
    """Settings from the environment, overridden by the command line; a slip ends the program with a sentence."""
    try:
        refuse_unknown(settings)
        command_line: dict[str, Any] = {"_cli_parse_args": True, "_cli_prog_name": program}
        return settings(**command_line)
    except ValidationError as error:
        prefix = settings.model_config["env_prefix"]
        for problem in error.errors():
            name = "_".join(str(part) for part in problem["loc"]).upper()
            print(f"{program}: {prefix}{name}: {problem['msg']} (got {problem.get('input')!r})", file=sys.stderr)
        sys.exit(2)
    except ValueError as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(2)


def refuse_unknown(settings: type[Settings], environment: Any = os.environ) -> None:
    """Raise ValueError for a variable that bears the process's prefix but names no setting."""
    prefix = settings.model_config["env_prefix"]
    known = [prefix + name.upper() for name in settings.model_fields]
    for name in environment:
        if name.startswith(prefix) and name not in known:
            close = difflib.get_close_matches(name, known, 1)
            raise ValueError(
                f"unknown setting {name}"
                + (f"; did you mean {close[0]}?" if close else f"; known are {', '.join(known)}")
            )
