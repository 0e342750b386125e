"""The events that everything is measured with: the simulation's own mix of lengths.

python -m bench.mix mix.json                    # single events, for perf_analyzer --input-data
python -m bench.mix mix64.json --length 64      # only those that are padded to 64, for perf_analyzer -b 32
"""

import argparse
import json
from collections import defaultdict
from itertools import islice
from pathlib import Path

from icestream.detector import nominal_icecube86
from icestream.event import Event
from icestream.sources.simulation.simulator import simulated_events
from icestream.tensors import Arrays, pad, padded_length

SEED = 7
EVENTS = 2000
MAX_PULSES = 128  # of the shipped model


def mix(events: int = EVENTS) -> list[Event]:
    """Simulated events, always the same."""
    return [event for event, _ in islice(simulated_events(nominal_icecube86(), SEED, run_id=1), events)]


def by_length(events: list[Event]) -> dict[int, list[Event]]:
    """Events by the length they are padded to."""
    groups: defaultdict[int, list[Event]] = defaultdict(list)
    for event in events:
        groups[padded_length(event.n_pulses, MAX_PULSES)].append(event)
    return dict(sorted(groups.items()))


def batches(events: list[Event], size: int) -> list[Arrays]:
    """Padded batches of one length each."""
    return [
        pad(group[low : low + size], length)
        for length, group in by_length(events).items()
        for low in range(0, len(group), size)
    ]


def write_input_data(events: list[Event], path: Path) -> None:
    """Events as perf_analyzer reads them, each padded to its own length."""
    steps = []
    for event in events:
        inputs = pad([event], padded_length(event.n_pulses, MAX_PULSES))
        steps.append(
            {name: {"content": array[0].tolist(), "shape": list(array.shape[1:])} for name, array in inputs.items()}
        )
    path.write_text(json.dumps({"data": steps}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--length", type=int, help="only events that are padded to this length")
    parser.add_argument("--events", type=int, default=EVENTS)
    options = parser.parse_args()
    groups = by_length(mix(options.events))
    if options.length is not None and options.length not in groups:
        parser.error(f"no event is padded to {options.length}; the lengths are {', '.join(map(str, groups))}")
    events = mix(options.events) if options.length is None else groups[options.length]
    write_input_data(events, options.path)
    print(f"wrote {len(events)} events to {options.path}")


if __name__ == "__main__":
    main()
