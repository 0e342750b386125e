"""`icestream send`: from a file of events to a table of directions, by way of the REST interface."""

import json
import math
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from icestream.event_json import pulse_columns
from icestream.sources.kaggle import open_folder

REQUEST_EVENTS, REQUEST_PULSES = 256, 200_000  # of a request, at most; one event may have more pulses
RETRY_FOR_S = 30.0  # while Triton is away or requests come too fast
SCHEMA = pa.schema([
    ("event_id", pa.int64()),
    ("azimuth", pa.float64()),  # rad, of where the particle came from; null where there is an error
    ("zenith", pa.float64()),
    ("kappa", pa.float64()),
    ("radius_50_deg", pa.float64()),
    ("radius_90_deg", pa.float64()),
    ("model", pa.string()),
    ("version", pa.string()),
    ("error", pa.string()),
])  # fmt: skip


class SendError(Exception):
    """What ends the command; the message names the cause and the fix."""


def send(source: str, url: str, token: str | None, output: Path | None) -> int:
    """Ask for the directions of a file's events and write them as a table; returns how many could not be reconstructed.

    Args:
        source: a Parquet file with the competition's columns, or `-` for JSON lines on standard input.
        url: of the REST interface.
        output: .csv or .parquet; None prints CSV.

    Raises:
        SendError: there is no answer.
        icestream.sources.source.SourceError: it is no such file.
    """
    failed = written = 0
    writer = None
    try:
        for request in _requests(_lines() if source == "-" else _file(Path(source))):
            rows: list[dict[str, Any]] = []
            for (event_id, _), answer in zip(request, _ask(url, token, [event for _, event in request]), strict=True):
                error = answer.pop("error", None)
                reason = error and f"{error['reason']}: {error['detail'].removeprefix(error['reason'] + ': ')}"
                rows.append({"event_id": event_id, **answer, "error": reason})
            writer = writer or _writer(output)
            writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
            failed += sum(row["error"] is not None for row in rows)
            written += len(rows)
        writer = writer or _writer(output)
    except SendError as error:
        raise SendError(f"{error}; the answers to {written} events before are written" if written else error) from None
    finally:
        if writer:
            writer.close()
    return failed


def _writer(output: Path | None) -> Any:
    """Writes tables as they come: what is answered is kept, whatever happens then."""
    if output is not None and output.suffix == ".parquet":
        return pq.ParquetWriter(output, SCHEMA)
    return pyarrow.csv.CSVWriter(sys.stdout.buffer if output is None else output, SCHEMA)


def _file(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for event, _ in open_folder(path).events(0):
        yield event.event_id, {**pulse_columns(event), "event_id": event.event_id}


def _lines() -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(sys.stdin):
        if line.strip():
            try:
                event = json.loads(line)
            except ValueError as error:
                raise SendError(f"line {number + 1} is no JSON ({error})") from None
            if not isinstance(event, dict):
                raise SendError(f"line {number + 1} is no event: it must be an object, see /v1/openapi.json")
            known = event.get("event_id")
            yield known if isinstance(known, int) and -(2**63) <= known < 2**63 else number, event


def _requests(events: Iterator[tuple[int, dict[str, Any]]]) -> Iterator[list[tuple[int, dict[str, Any]]]]:
    """Events in groups that fit a request."""
    group: list[tuple[int, dict[str, Any]]] = []
    pulses = 0
    for event in events:
        pulses_given = event[1].get("sensor_id")
        size = len(pulses_given) if isinstance(pulses_given, list) else 0
        if group and (len(group) == REQUEST_EVENTS or pulses + size > REQUEST_PULSES):
            yield group
            group, pulses = [], 0
        group.append(event)
        pulses += size
    if group:
        yield group


def _ask(url: str, token: str | None, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    body = json.dumps({"events": [_without_nan(event) for event in events]}).encode()
    give_up = time.monotonic() + RETRY_FOR_S
    while True:
        try:
            request = urllib.request.Request(f"{url.rstrip('/')}/v1/reconstruct", body, headers)
            with urllib.request.urlopen(request, timeout=120) as answer:
                found: list[dict[str, Any]] = json.load(answer)["results"]
            return found
        except urllib.error.HTTPError as error:
            if error.code not in (429, 503) or time.monotonic() > give_up:
                raise SendError(f"{url} answers {error.code}: {_detail(error)}") from None
            time.sleep(float(error.headers.get("Retry-After", "1")))
        except (OSError, ValueError, HTTPException) as error:
            raise SendError(
                f"{url} does not answer ({getattr(error, 'reason', error)}): start `icestream up`, or give another --url"
            ) from None


def _without_nan(event: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN and no infinity: such a number is sent as null, so that its event alone is refused."""
    return {
        name: [None if isinstance(value, float) and not math.isfinite(value) else value for value in column]
        if isinstance(column, list)
        else column
        for name, column in event.items()
    }


def _detail(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"]["detail"])
    except (ValueError, KeyError, TypeError):
        return error.reason
