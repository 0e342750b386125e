"""True directions from Parquet files with one row per event."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from icestream.sources.pulse_table import batches, column_names, numbers, statistics, whole_numbers
from icestream.sources.source import SourceError
from icestream.truth import Truth

LIMITS = {"azimuth": 2 * math.pi, "zenith": math.pi}
ROUNDED = 1e-6
AT_ONCE = 1000  # truths that are made ahead of their events
FEW = 0.1  # of the angles: more that are none are of another unit

Range = tuple[float, float] | None  # None: not known


class TruthTable:
    """The truth of events, of whatever files hold it.

    Args:
        paths: files that may.
        event_id: name of the column that says whose truth it is.
        events: ranges of the event ids that are asked for.

    Attributes:
        words: where the truth comes from, or why it is not known.

    Raises:
        SourceError: a file is damaged.
    """

    def __init__(self, paths: Sequence[Path], event_id: str, events: Sequence[Range]):
        self._event_id = event_id
        found, reasons = list[Path](), list[str]()
        for path in paths:
            reason = _reason_against(path, event_id, events)
            (reasons if reason else found).append(reason or path)  # type: ignore[arg-type]
        self._groups = [
            (path, number, group) for path in found for number, group in enumerate(statistics(path, event_id))
        ]
        names = [path.name for path in found[:2]] + (["…"] if len(found) > 2 else [])
        self.words = ", ".join(names) or "not known: " + (
            "; ".join(reasons[:2]) or "there is no file of it beside the pulses"
        )

    def of(self, ids: NDArray[np.int64], run_id: int) -> Iterator[Truth | None]:
        """The truth of each of these events, None where it is not known; angles that are none are not. Raises SourceError."""
        wanted = np.sort(ids)
        angles, said_by = np.full((len(wanted), len(LIMITS)), np.nan), np.full(len(wanted), -1)
        paths = list(dict.fromkeys(path for path, _, _ in self._groups))
        for path, number, group in self._groups:
            if not len(wanted) or not _overlap(group, (wanted[0], wanted[-1])):
                continue
            for batch in batches(path, [self._event_id, *LIMITS], [number]):
                event_id = whole_numbers(path, batch, self._event_id)
                place = np.searchsorted(wanted, event_id).clip(max=len(wanted) - 1)
                asked = wanted[place] == event_id
                said = np.stack([numbers(path, batch, name) for name in LIMITS], axis=1)[asked]
                asked_at, own = place[asked], paths.index(path)
                others = (said_by[asked_at] >= 0) & (said_by[asked_at] != own)
                if (differing := others & (abs(angles[asked_at] - said) > ROUNDED).any(axis=1)).any():
                    first = asked_at[differing][0]
                    raise SourceError(
                        f"{paths[said_by[first]]} and {path} say different truths of event {wanted[first]}: take one of them away"
                    )
                angles[asked_at], said_by[asked_at] = said, own
        inside = np.all((angles >= 0) & (angles <= np.array([*LIMITS.values()]) + ROUNDED), axis=1)
        return _each(ids, angles[np.searchsorted(wanted, ids)], inside[np.searchsorted(wanted, ids)], run_id)


def _each(
    ids: NDArray[np.int64], angles: NDArray[np.float64], known: NDArray[np.bool_], run_id: int
) -> Iterator[Truth | None]:
    for low in range(0, len(ids), AT_ONCE):
        part = slice(low, low + AT_ONCE)
        rows = zip(ids[part].tolist(), angles[part].tolist(), known[part].tolist(), strict=True)
        for event_id, (azimuth, zenith), is_known in rows:
            yield Truth(run_id=run_id, event_id=event_id, azimuth=azimuth, zenith=zenith) if is_known else None


def _reason_against(path: Path, event_id: str, events: Sequence[Range]) -> str:
    """Why a file does not say the truth of the events; empty if it may."""
    missing = [name for name in (event_id, *LIMITS) if name not in column_names(path)]
    if missing:
        return f"{path.name} has no {' and '.join(missing)}"
    if not any(_overlap(one, other) for one in statistics(path, event_id) for other in events):
        return f"{path.name} has none of these events"
    for name, limit in LIMITS.items():
        said = statistics(path, name)
        if all(group and group[0] >= 0 and group[1] <= limit + ROUNDED for group in said):
            continue
        values = np.concatenate([[math.nan], *(numbers(path, batch, name) for batch in batches(path, [name]))])
        if not np.isfinite(values).any():
            return f"{path.name} has no {name}"
        if np.count_nonzero((values < 0) | (values > limit + ROUNDED)) > FEW * len(values):
            low, high = np.nanmin(values), np.nanmax(values)
            return f"{name} in {path.name} is {low:g} to {high:g}, radians from 0 to {limit:.2f} are expected"
    return ""


def _overlap(one: Range, other: Range) -> bool:
    return one is None or other is None or (one[0] <= other[1] and other[0] <= one[1])
