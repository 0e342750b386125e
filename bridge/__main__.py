"""`python -m bridge`: the composition of cube 2."""

import asyncio
import signal
import sys

import structlog
from prometheus_client import CollectorRegistry

from bridge.metrics import BridgeMetrics
from bridge.settings import BridgeSettings
from bridge.worker import Worker
from icestream.detector import nominal_icecube86
from icestream.inference.client import Model, Triton
from icestream.inference.errors import Mismatch, TritonAway
from icestream.service.metrics import configure_logs
from icestream.service.settings import load
from icestream.streams import keys as streams
from icestream.streams.event_queue import Intake
from icestream.streams.outlet import Outlet
from icestream.streams.status import look

ASK_AGAIN_S = 0.5


async def run(settings: BridgeSettings, log: structlog.stdlib.BoundLogger) -> None:
    metrics = BridgeMetrics(CollectorRegistry())
    metrics.serve(settings.metrics_host, settings.metrics_port)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    triton = Triton(settings.triton_url, settings.model, settings.request_timeout_s)
    redis = streams.connect_asyncio(settings.redis_url, settings.redis_password)
    try:
        model = await _served_model(triton, metrics, stopping, log)
        if model is None:
            return
        log.info(
            "model fits",
            model=model.name,
            max_pulses=model.max_pulses,
            checkpoint=model.checkpoint,
            known_answers=len(model.known),
        )
        intake = Intake(redis, settings.consumer, settings.claim_idle_s)
        worker = Worker(
            settings,
            model,
            intake,
            triton,
            Outlet(redis),
            lambda: look(redis),
            metrics,
            log,
            nominal_icecube86().position_m,
        )
        stopper = asyncio.create_task(_stop_when(stopping, worker))
        await worker.run()
        stopper.cancel()
    finally:
        await triton.close()
        await redis.aclose()
    log.info("stopped")


async def _served_model(
    triton: Triton, metrics: BridgeMetrics, stopping: asyncio.Event, log: structlog.stdlib.BoundLogger
) -> Model | None:
    """The model, as soon as Triton serves it and its known answers are right; None if a stop came first."""
    while not stopping.is_set():
        metrics.beat()
        try:
            model = await triton.model()
            await triton.check(model)
            return model
        except TritonAway as error:
            metrics.retry("triton")
            log.info("waiting for Triton", error=str(error))
            await asyncio.sleep(ASK_AGAIN_S)
    return None


async def _stop_when(stopping: asyncio.Event, worker: Worker) -> None:
    await stopping.wait()
    worker.stop()


def main() -> None:
    settings = load(BridgeSettings, "bridge")
    try:
        asyncio.run(run(settings, configure_logs("bridge")))
    except Mismatch as error:
        sys.exit(f"bridge: {error}")


if __name__ == "__main__":
    main()
