"""The emitter.

python -m emitter
"""

from icestream.service.extras import require

require("emitter")

import sys
import time

import numpy as np
from prometheus_client import CollectorRegistry

from emitter.emission import Emission
from emitter.metrics import EmitterMetrics
from emitter.pacing import Pacing
from emitter.settings import EmitterSettings
from icestream.detector import DetectorFileError, load_detector
from icestream.service.garbage import collect_rarely
from icestream.service.logs import configure_logs
from icestream.service.redis_url import Several
from icestream.service.settings import load
from icestream.service.shutdown import stop_event
from icestream.service.tracing import tracing
from icestream.sources.replay import Replay, open_files
from icestream.sources.simulation.simulator import Simulation
from icestream.sources.source import Source, SourceError
from icestream.streams.connection import connect
from icestream.streams.publisher import AnotherSource, AnotherWriter, Backlog, Publisher
from icestream.streams.suitability import UnsuitableRedis


def main() -> None:
    settings = load(EmitterSettings, "emitter")
    stop = stop_event()
    log, traces = configure_logs("emitter"), tracing("emitter")
    metrics = EmitterMetrics(CollectorRegistry())
    log.info("serving /metrics", port=metrics.serve(settings.metrics_host, settings.metrics_port))
    collect_rarely()
    rate = None if settings.rate == "max" else settings.rate
    metrics.target(rate)
    run_id = time.time_ns() // 1_000_000 if settings.run_id is None else settings.run_id
    try:
        source = _source(settings)
        emission = Emission(
            Publisher(
                connect(settings.redis_url, settings.redis_password),
                run_id,
                replicated=settings.durability == "replicated",
                fails_over=Several.of(settings.redis_url) is not None or settings.durability == "replicated",
            ),
            Pacing(rate, np.random.default_rng(settings.seed)),
            metrics=metrics,
            log=log,
            stop=stop,
            tracing=traces,
        )
        backlog = Backlog(settings.max_backlog, settings.max_backlog_mb * 2**20)
        metrics.left_out(lambda: source.left_out)
        log.info("the source", source=settings.source, parts=len(source.contents), truth=source.truth)
        description = {
            "source": settings.source, "rate": str(settings.rate), "seed": str(settings.seed), "truth": source.truth,
        }  # fmt: skip
        try:
            emission.run(source, run_id, limit=settings.count, max_backlog=backlog, description=description)
        finally:
            if traces:
                traces.close()
    except (SourceError, DetectorFileError, UnsuitableRedis) as error:
        sys.exit(f"emitter: {error}")
    except AnotherSource as error:
        sys.exit(f"emitter: {error}; give another run id")
    except AnotherWriter as error:
        sys.exit(f"emitter: {error}; give another run id, or stop one of the two")


def _source(settings: EmitterSettings) -> Source:
    if settings.source == "simulate":
        return Simulation(load_detector(settings.geometry, settings.ice), settings.seed)
    return Replay(open_files(settings.source), settings.loop)


if __name__ == "__main__":
    main()
