"""The `icestream` command."""

from icestream.service.extras import require

require("launcher")

import argparse
import asyncio
import os
import shlex
import sys

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before MLflow is imported
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # its bars would break the live table

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TextIO, cast

from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from deployer.models import ModelsError, act, add_actions
from emitter.settings import EmitterSettings
from icestream import __version__
from icestream.detector import nominal_icecube86
from icestream.event import REASONS
from icestream.registry import REGISTERED, Registry
from icestream.service.output import Output
from icestream.service.settings import RedisUrl
from icestream.sources.kaggle import write_folder
from icestream.sources.replay import FILES, is_replay
from icestream.sources.simulation.simulator import simulated_events
from icestream.sources.source import SourceError
from launcher.errors import LauncherError
from launcher.inspection import inspect
from launcher.mlflow_server import serve_recorded
from launcher.plan import ROOT, Options, Plan
from launcher.rejected import RejectedError, Selection
from launcher.rejected import run as run_rejected
from launcher.send import SendError, send
from launcher.session import Session
from launcher.state import port_of_session, redis_of_session
from launcher.supervisor import ServiceFailed
from tritonserver.errors import MissingDependency
from tritonserver.process import HOST

STATE_DIR = Path(".icestream")
CORES_PER_BRIDGE, MOST_BRIDGES = 4, 4  # the model needs cores, too; one Redis serves four bridges


def main() -> None:
    options = _parser().parse_args()
    # This machine's own servers are asked directly, without any HTTP proxy.
    given = list(filter(None, (os.environ.get(name) for name in ("no_proxy", "NO_PROXY"))))
    direct = "*" if "*" in given else ",".join(dict.fromkeys([*given, HOST]))
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = direct
    os.environ["PYTHONSAFEPATH"] = "1"  # a file here named like a process is not it
    commands: dict[str, Callable[[argparse.Namespace], int]] = {
        "up": _up, "simulate": _simulate, "send": _send, "mlflow": _mlflow, "rejected": _rejected, "inspect": _inspect,
        "models": _models,
    }  # fmt: skip
    try:
        sys.exit(commands[options.command](options))
    except (
        LauncherError,
        MissingDependency,
        ServiceFailed,
        SendError,
        RejectedError,
        ModelsError,
        SourceError,
    ) as error:
        sys.exit(f"icestream: {error}")
    except BrokenPipeError:  # as in `icestream inspect | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        sys.exit(f"icestream: {error.filename or 'this machine'}: {error.strerror or error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="icestream", description="A live stream of neutrino events goes in, directions come out."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, dest="command")
    _add_up(commands)
    simulate = commands.add_parser(
        "simulate", help="write simulated events as the competition's Parquet files", formatter_class=_WithDefaults
    )
    simulate.add_argument("folder", type=Path, help="where train/batch_1.parquet and train_meta.parquet go")
    simulate.add_argument("--events", type=_positive, default=2000, help="how many")
    _add_setting(simulate, "seed")
    ask = commands.add_parser("send", help="ask a running display for the directions of your own events")
    ask.add_argument(
        "source", help="a Parquet file with the competition's columns, or - for JSON lines as REST takes them"
    )
    ask.add_argument("--url", default="http://127.0.0.1:8080", help="of the display (http://127.0.0.1:8080)")
    ask.add_argument("--token-file", type=Path, default=None, help="a file with the bearer token, if it needs one")
    ask.add_argument(
        "--output", type=_table, default=None, metavar="FILE", help=".csv or .parquet (default: CSV is printed)"
    )
    look = commands.add_parser("inspect", help="what is in files of events: how many, what would be rejected and why")
    look.add_argument("source", type=_files, help=FILES)
    look.add_argument("--all", action="store_true", help="read all events, not the first few thousand")
    _add_rejected(commands)
    _add_models(commands)
    again = commands.add_parser("mlflow", help="start MLflow on the recorded sessions")
    again.add_argument("--state-dir", type=Path, default=STATE_DIR, help="state directory (.icestream)")
    return parser


class _WithDefaults(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, where there are any."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default else action.help


def _add_up(commands: Any) -> None:
    up = commands.add_parser(
        "up",
        help="run the whole stream here: Redis, Triton, MLflow, emitter, bridges, recorder, deployer, display",
        formatter_class=_WithDefaults,
    )
    up.add_argument(
        "--events",
        type=_positive,
        default=None,
        metavar="N",
        help="end when N events are emitted and all have a result or are rejected; without it, run until Ctrl-C",
    )
    for name in ("rate", "source", "seed"):
        _add_setting(up, name)
    up.add_argument(
        "--bridges", type=_bridges, default="auto", metavar="NUMBER",
        help=f"bridges that share the work (auto: one for every {CORES_PER_BRIDGE} cores, {MOST_BRIDGES} at most)",
    )  # fmt: skip
    up.add_argument("--state-dir", type=Path, default=STATE_DIR, help="data, logs, pids.json, pictures")
    up.add_argument(
        "--report", type=Path, default=None, metavar="FILE", help="the report as JSON (default: STATE_DIR/report.json)"
    )
    up.add_argument("--model-repository", type=Path, default=ROOT / "model_repository", help="what Triton serves")
    up.add_argument(
        "--port",
        type=_port,
        action="append",
        default=[],
        metavar="NAME=NUMBER",
        help="a fixed port, e.g. redis=6380; may be repeated",
    )


def _add_models(commands: Any) -> None:
    models = commands.add_parser(
        "models", help="the versions of the model, and which is served; change it while the stream runs"
    )
    add_actions(models)
    models.add_argument("--mlflow-url", default=None, help="of MLflow (default: that of the same `icestream up`)")
    _add_redis(models)
    models.add_argument("--registered-model", default=REGISTERED, help=f"its name ({REGISTERED})")


def _add_rejected(commands: Any) -> None:
    rejected = commands.add_parser("rejected", help="look at rejected entries, replay them, or drop them")
    rejected.add_argument("action", choices=("list", "show", "replay", "drop"))
    rejected.add_argument("ids", nargs="*", metavar="ID", help="of a rejected entry, as list prints it")
    rejected.add_argument("--reason", choices=REASONS, default=None, help="only entries that were rejected for it")
    rejected.add_argument(
        "--older-than", type=_seconds, default=0.0, metavar="SECONDS", help="only entries rejected so long ago"
    )
    rejected.add_argument("--all", action="store_true", help="replay or drop all of them")
    _add_redis(rejected)


def _add_redis(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state-dir", type=Path, default=STATE_DIR, help="of the `icestream up` whose Redis it is (.icestream)"
    )
    parser.add_argument("--redis-url", type=_redis_url, default=None, help="of another one, redis://admin@host:6379")
    parser.add_argument("--redis-password-file", type=Path, default=None, help="a file that holds its password")


def _redis_of(options: argparse.Namespace) -> tuple[str, str | None]:
    if options.redis_url is None:
        return redis_of_session(options.state_dir)
    return options.redis_url, options.redis_password_file.read_text().strip() if options.redis_password_file else None


def _add_setting(parser: argparse.ArgumentParser, name: str) -> None:
    """An option for a setting of the emitter: its default, description and check are the emitter's own."""
    field = EmitterSettings.model_fields[name]
    kind: Any = Annotated[field.annotation, field]
    adapter: TypeAdapter[Any] = TypeAdapter(kind)

    def check(text: str) -> Any:
        try:
            return adapter.validate_python(text)
        except ValidationError as error:
            message = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise argparse.ArgumentTypeError(f"{text!r}: {message}") from None

    parser.add_argument(f"--{name}", type=check, default=field.default, help=field.description)


def _up(options: argparse.Namespace) -> int:
    source = options.source
    if is_replay(source):
        kind, _, place = source.partition(":")
        source = f"{kind}:{os.path.realpath(place)}"  # that of a loop of links as well, which is refused later
    plan = Plan(
        Options(
            events=options.events,
            rate=str(options.rate),
            source=source,
            seed=options.seed,
            bridges=options.bridges,
            state_dir=options.state_dir,
            report=options.report or options.state_dir / "report.json",
            model_repository=options.model_repository,
            ports=dict(options.port),
        )
    )

    async def run() -> int:
        return await Session(plan, _console()).run()

    try:
        return asyncio.run(run())
    finally:
        plan.close()


def _simulate(options: argparse.Namespace) -> int:
    folder = options.folder
    try:
        write_folder(folder, islice(simulated_events(nominal_icecube86(), options.seed, run_id=0), options.events))
    except OSError as error:
        raise LauncherError(f"{folder} cannot be written ({error.strerror}): name another folder") from None
    _console().print(
        f"wrote {options.events} events to {folder}: replay them with icestream up --source {shlex.quote(f'kaggle:{folder}')}",
        soft_wrap=True,
    )
    return 0


def _send(options: argparse.Namespace) -> int:
    try:
        token = options.token_file.read_text().strip() if options.token_file else None
    except UnicodeDecodeError:
        raise SendError(f"{options.token_file} holds no token: it is no UTF-8") from None
    failed = send(options.source, options.url, token, options.output)
    if failed:
        sys.stderr.write(f"icestream: {failed} events could not be reconstructed; the column error says why\n")
    return 0


def _files(text: str) -> str:
    if not is_replay(text):
        raise argparse.ArgumentTypeError(f"a source of files is {FILES}")
    return text


def _inspect(options: argparse.Namespace) -> int:
    for line in inspect(options.source, options.all):
        sys.stdout.write(line + "\n")
    return 0


def _models(options: argparse.Namespace) -> int:
    mlflow_url = options.mlflow_url or f"http://{HOST}:{port_of_session(options.state_dir, 'mlflow')}"
    registry = Registry(mlflow_url, options.registered_model)
    sys.stdout.write("".join(f"{line}\n" for line in act(registry, *_redis_of(options), options)))
    return 0


def _rejected(options: argparse.Namespace) -> int:
    selected = options.ids or options.reason or options.older_than or options.all
    if options.action != "list" and not selected:
        raise RejectedError(f"{options.action} what? Give ids, --reason, --older-than or --all")
    selection = Selection(ids=options.ids, reason=options.reason, older_than_s=options.older_than)
    lines = run_rejected(options.action, *_redis_of(options), selection)
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


def _mlflow(options: argparse.Namespace) -> int:
    return serve_recorded(options.state_dir, _console())


def _table(text: str) -> Path:
    if Path(text).suffix not in (".csv", ".parquet"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither .csv nor .parquet")
    return Path(text)


def _bridges(text: str) -> int:
    if text == "auto":
        return min(MOST_BRIDGES, max(1, len(os.sched_getaffinity(0)) // CORES_PER_BRIDGE))
    return _positive(text)


def _console() -> Console:
    return Console(file=cast("TextIO", Output(sys.stdout)))


def _positive(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) < 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0 and below 2⁶³")
    return int(text)


def _redis_url(text: str) -> str:
    adapter: TypeAdapter[str] = TypeAdapter(RedisUrl)
    try:
        return adapter.validate_python(text)
    except ValidationError as error:  # the address is not repeated: it may hold a password
        raise argparse.ArgumentTypeError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return seconds


def _port(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if not number.isdigit() or not 0 < int(number) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=NUMBER")
    return name, int(number)


if __name__ == "__main__":
    main()
