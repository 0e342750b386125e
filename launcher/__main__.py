"""`icestream up`: the whole stream on this machine, without Docker."""

import argparse
import asyncio
import os
import sys
from itertools import islice
from pathlib import Path

from rich.console import Console

from icestream import __version__
from icestream.detector import nominal_icecube86
from icestream.sources.kaggle import KaggleError, write_folder
from icestream.sources.simulation.simulator import simulated_events
from launcher.plan import HOST, ROOT, Options, Plan
from launcher.send import SendError, send
from launcher.session import Session
from launcher.supervisor import PartFailed
from tritonserver.errors import MissingPart


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="icestream", description="A live stream of neutrino events goes in, directions come out."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, dest="command")
    up = commands.add_parser(
        "up",
        help="run the whole stream here: Redis, Triton, MLflow, emitter, bridge, recorder",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    up.add_argument(
        "--events",
        type=_positive,
        default=None,
        metavar="N",
        help="end when N events are through (default: run until Ctrl-C)",
    )
    up.add_argument("--rate", type=_rate, default="100", metavar="R", help="events/s with Poisson gaps, or max")
    up.add_argument("--source", type=_source, default="simulate", help="simulate, or kaggle:DIR")
    up.add_argument("--seed", type=_seed, default=42, help="of the simulation")
    up.add_argument("--bridges", type=_positive, default=1, help="bridges that share the work")
    up.add_argument("--state-dir", type=Path, default=Path(".icestream"), help="data, logs, pids.json, pictures")
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
        help="a port that must be this one; may be given again",
    )
    simulate = commands.add_parser("simulate", help="write simulated events as the competition's Parquet files")
    simulate.add_argument("folder", type=Path, help="where train/batch_1.parquet and train_meta.parquet go")
    simulate.add_argument("--events", type=_positive, default=2000, help="how many (2000)")
    simulate.add_argument("--seed", type=_seed, default=42, help="of the simulation (42)")
    ask = commands.add_parser("send", help="ask a running display for the directions of your own events")
    ask.add_argument(
        "source", help="a Parquet file with the competition's columns, or - for JSON lines as REST takes them"
    )
    ask.add_argument("--url", default="http://127.0.0.1:8080", help="of the display (http://127.0.0.1:8080)")
    ask.add_argument("--token-file", type=Path, default=None, help="a file with the bearer token, if it asks for one")
    ask.add_argument(
        "--output", type=_table, default=None, metavar="FILE", help=".csv or .parquet (default: CSV is printed)"
    )
    given = parser.parse_args()
    # This machine's own servers are asked directly, whatever proxy leads elsewhere.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join(filter(None, [os.environ.get("no_proxy"), HOST]))
    if given.command == "simulate":
        _simulate(given.folder, given.events, given.seed)
        return
    if given.command == "send":
        sys.exit(_send(given.source, given.url, given.token_file, given.output))
    # MLflow's progress bars would break the live table.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    options = Options(
        given.events, given.rate, given.source, given.seed, given.bridges, given.state_dir,
        given.report or given.state_dir / "report.json", given.model_repository, dict(given.port),
    )  # fmt: skip
    try:
        status = asyncio.run(_up(options))
    except (MissingPart, PartFailed) as error:
        sys.exit(f"icestream: {error}")
    sys.exit(status)


async def _up(options: Options) -> int:
    return await Session(Plan(options), Console()).run()


def _simulate(folder: Path, events: int, seed: int) -> None:
    try:
        write_folder(folder, islice(simulated_events(nominal_icecube86(), seed, run_id=0), events))
    except OSError as error:
        sys.exit(f"icestream: {folder} cannot be written ({error.strerror}): name another folder")
    Console().print(
        f"wrote {events} events to {folder}: replay them with icestream up --source kaggle:{folder}", soft_wrap=True
    )


def _send(source: str, url: str, token_file: Path | None, output: Path | None) -> int:
    try:
        failed = send(source, url, token_file.read_text().strip() if token_file else None, output)
    except (SendError, KaggleError) as error:
        sys.exit(f"icestream: {error}")
    except OSError as error:
        sys.exit(f"icestream: {error.filename or output}: {error.strerror}")
    if failed:
        sys.stderr.write(f"icestream: {failed} events could not be reconstructed; the column error says why\n")
    return 0


def _table(text: str) -> Path:
    if Path(text).suffix not in (".csv", ".parquet"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither .csv nor .parquet")
    return Path(text)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _rate(text: str) -> str:
    try:
        if text != "max" and not 0 < float(text) < float("inf"):
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither `max` nor a number of events/s above 0") from None
    return text


def _source(text: str) -> str:
    if text != "simulate" and not text.startswith("kaggle:"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither `simulate` nor `kaggle:DIR`")
    return text if text == "simulate" else f"kaggle:{Path(text.removeprefix('kaggle:')).resolve()}"


def _port(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if not number.isdigit() or not 0 < int(number) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=NUMBER")
    return name, int(number)


if __name__ == "__main__":
    main()
