"""In which order redelivered entries are tried, and when one is rejected. Pure: no clock, no Redis.

Redis counts a delivery for every entry that a dead bridge held, so the count alone does not say which of them crashed it. A
redelivered entry is therefore a suspect: it is tried alone, with nothing else held, and only failures alone count.
"""

from collections.abc import Iterable

from icestream.streams.event_queue import PendingEntry

MAX_ALONE = 3  # deliveries alone without a result, after the one in company


def in_order(abandoned: Iterable[PendingEntry]) -> list[PendingEntry]:
    """Fewest deliveries first, then as listed, the oldest first: an entry that crashes bridges comes after those that do not."""
    return sorted(abandoned, key=lambda entry: entry.deliveries)


def is_exhausted(tries: int) -> bool:
    """Whether an entry with this delivery, the current one included, has failed alone often enough to be rejected."""
    return tries > 1 + MAX_ALONE
