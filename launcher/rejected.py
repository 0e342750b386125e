"""`icestream rejected`: look at rejected entries, put them back into the stream, or delete them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from icestream.streams.connection import RedisError, connect
from icestream.streams.rejected import DeadLetter, DeadLetters, Replayed

SHOWN_BYTES = 256  # of a payload, as hexadecimal


class RejectedError(Exception):
    """What ends the command; the message names the cause and the fix."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which rejected entries; an entry must meet every condition that is given."""

    ids: Sequence[str] = ()
    reason: str | None = None
    older_than_s: float = 0.0

    def __contains__(self, letter: DeadLetter) -> bool:
        return (
            (not self.ids or letter.id in self.ids)
            and self.reason in (None, letter.reason)
            and letter.age_s >= self.older_than_s
        )


def run(action: str, redis_url: str, password: str | None, selection: Selection) -> list[str]:
    """Do one of list, show, replay and drop; returns the lines to print.

    Raises:
        RejectedError: Redis does not answer, or there is no such entry.
    """
    actions: dict[str, Callable[[DeadLetters, list[DeadLetter]], list[str]]] = {
        "list": lambda _, found: [_line(letter) for letter in found],
        "show": lambda _, found: [line for letter in found for line in _details(letter)],
        "replay": _replay,
        "drop": lambda letters, found: [f"dropped {sum(letters.drop(letter.id) for letter in found)}"],
    }
    try:
        letters = DeadLetters(connect(redis_url, password))
        found = [letter for letter in letters.latest() if letter in selection]
        if missing := sorted(set(selection.ids) - {letter.id for letter in found}):
            raise RejectedError(
                f"no rejected entry {', '.join(missing)}: icestream rejected list names those there are"
            )
        return actions[action](letters, found)
    except RedisError as error:
        raise RejectedError(f"Redis does not answer as expected ({error}): is --redis-url right?") from None


def _replay(letters: DeadLetters, found: list[DeadLetter]) -> list[str]:
    outcomes = [(letter, letters.replay(letter.id)) for letter in reversed(found)]  # in the order of their rejection
    cut = [letter.id for letter, outcome in outcomes if outcome is Replayed.TRUNCATED]
    done = sum(outcome is Replayed.REPLAYED for _, outcome in outcomes)
    lines = [f"replayed {done}"]
    if cut:
        lines.append(f"not replayed, because only a part of their bytes was kept: {', '.join(cut)}")
    return lines


def _line(letter: DeadLetter) -> str:
    return f"{letter.id}  {_age(letter.age_s):>6}  {letter.reason:<16}  {letter.event or '–':<24}  {letter.size} bytes  {letter.detail}"


def _details(letter: DeadLetter) -> list[str]:
    values = {
        "id": letter.id, "rejected": f"{_age(letter.age_s)} ago", "reason": letter.reason, "detail": letter.detail,
        "deliveries": letter.tries, "entry": letter.entry, "event": letter.event or "–",
        "bytes": f"{letter.size}, {len(letter.payload)} of them kept", "sha1": letter.sha1,
        "payload": letter.payload[:SHOWN_BYTES].hex(" ") + (" …" if len(letter.payload) > SHOWN_BYTES else ""),
    }  # fmt: skip
    return [*(f"{name:<11} {value}" for name, value in values.items()), ""]


def _age(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
