"""The result of an event: its reconstructed direction, how certain it is, which model made it, and when."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Result:
    """What the stream stores for one event."""

    run_id: int
    event_id: int
    direction: tuple[float, float, float]  # unit vector to where the particle came from
    kappa: float  # von Mises–Fisher concentration, ≥ 0
    radius_50_deg: float  # angles around the direction that hold 50 and 90 % of such events
    radius_90_deg: float
    linefit: tuple[float, float, float]  # unit vector of the LineFit first guess; zeros where it is undefined
    n_pulses: int  # pulses of the event within the readout window
    n_used: int  # pulses the model was given
    model: str
    model_version: str
    checkpoint: str = ""  # the weights behind it: file, digest, precision, geometry; empty in results of wire version 2
    emitted_ns: int  # Unix times in ns: written by the emitter,
    read_ns: int  # read by the bridge,
    sent_ns: int  # sent to Triton,
    answered_ns: int  # answered by Triton,
    stored_ns: int  # stored in Redis, by its clock

    @property
    def latency_s(self) -> float:
        """Seconds from emitted to stored."""
        return (self.stored_ns - self.emitted_ns) * 1e-9
