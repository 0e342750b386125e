"""The bridge.

python -m bridge
"""

from icestream.service.extras import require

require("bridge")

import asyncio
import signal
import sys

from prometheus_client import CollectorRegistry

from bridge.inference import BatchInference
from bridge.lease import LeaseKeeper
from bridge.metrics import BridgeMetrics
from bridge.settings import BridgeSettings
from bridge.worker import Worker
from icestream.detector import nominal_icecube86
from icestream.inference.client import TritonClient
from icestream.inference.errors import ModelMismatch, TritonUnavailable
from icestream.inference.model import ModelDescription
from icestream.service.logs import Log, configure_logs
from icestream.service.retry import retry_asyncio
from icestream.service.settings import load
from icestream.streams import served_models
from icestream.streams.connection import AsyncRedis, RedisError, connect_asyncio
from icestream.streams.event_queue import EventQueue
from icestream.streams.status import read_status_asyncio
from icestream.streams.suitability import UnsuitableRedis

TRITON_RETRY_S = 0.5


async def run(settings: BridgeSettings, log: Log) -> None:
    metrics = BridgeMetrics(CollectorRegistry())
    log.info("serving /metrics", port=metrics.serve(settings.metrics_host, settings.metrics_port))
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    client = TritonClient(settings.triton_url, settings.model, settings.request_timeout_s)
    redis = connect_asyncio(settings.redis_url, settings.redis_password)
    try:
        model = await _checked_model(client, metrics=metrics, log=log, stopping=stopping)
        if model is not None:
            await _work(settings, client, redis, model=model, metrics=metrics, log=log, stopping=stopping)
    finally:
        await client.close()
        await redis.aclose()
    log.info("stopped")


async def _work(
    settings: BridgeSettings,
    client: TritonClient,
    redis: AsyncRedis,
    *,
    model: ModelDescription,
    metrics: BridgeMetrics,
    log: Log,
    stopping: asyncio.Event,
) -> None:
    log.info(
        "model validated",
        model=model.name,
        max_pulses=model.max_pulses,
        checkpoint=model.checkpoint,
        known_answers=len(model.known_answers),
    )
    queue = EventQueue(redis, settings.consumer, settings.claim_idle_s)
    worker = Worker(
        settings,
        queue,
        BatchInference(client, model, nominal_icecube86().position_m, metrics=metrics, log=log),
        LeaseKeeper(
            queue, lambda: read_status_asyncio(redis), claim_idle_s=settings.claim_idle_s, metrics=metrics, log=log
        ),
        model=model,
        metrics=metrics,
        log=log,
    )

    async def stop_worker() -> None:
        await stopping.wait()
        worker.stop()

    announcing = asyncio.create_task(
        retry_asyncio(
            lambda: served_models.announce(redis, model.name, model.max_pulses),
            RedisError,
            lambda error, _: log.warning("Redis command failed", error=str(error)),
        )
    )
    stopper = asyncio.create_task(stop_worker())
    await worker.run()
    stopper.cancel()
    announcing.cancel()


async def _checked_model(
    client: TritonClient, *, metrics: BridgeMetrics, log: Log, stopping: asyncio.Event
) -> ModelDescription | None:
    """The model, as soon as Triton serves it and its known answers are right; None if a stop came first."""
    while not stopping.is_set():
        metrics.beat()
        try:
            model = await client.describe_model()
            await client.check_known_answers(model)
            return model
        except TritonUnavailable as error:
            metrics.retry("triton")
            log.info("waiting for Triton", error=str(error))
            await asyncio.sleep(TRITON_RETRY_S)
    return None


def main() -> None:
    settings = load(BridgeSettings, "bridge")
    try:
        asyncio.run(run(settings, configure_logs("bridge")))
    except (ModelMismatch, UnsuitableRedis) as error:
        sys.exit(f"bridge: {error}")


if __name__ == "__main__":
    main()
