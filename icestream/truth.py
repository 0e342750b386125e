"""The true direction of an event, where it is known."""

import msgspec


class Truth(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The simulated or published direction of an event. The bridge never reads it."""

    run_id: int
    event_id: int
    azimuth: float  # rad, [0, 2π)
    zenith: float  # rad, [0, π]
    kind: str = ""  # "through-going", "starting", "cascade", or "" where it is not known
