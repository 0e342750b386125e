"""The bridge.

python -m bridge
"""

from icestream.service.extras import require

require("bridge")

import asyncio
import signal
import sys
from contextlib import suppress

from prometheus_client import CollectorRegistry

from bridge.inference import BatchInference
from bridge.lease import LeaseKeeper
from bridge.metrics import BridgeMetrics
from bridge.settings import BridgeSettings
from bridge.worker import Worker
from icestream.detector import nominal_icecube86
from icestream.inference.followed_model import FollowedModel
from icestream.service.garbage import collect_rarely
from icestream.service.logs import Log, configure_logs
from icestream.service.settings import load
from icestream.streams.connection import AsyncRedis, RedisError, connect_asyncio, is_away
from icestream.streams.event_queue import EventQueue
from icestream.streams.serving import follow_serving, read_serving_asyncio
from icestream.streams.status import read_status_asyncio
from icestream.streams.suitability import UnsuitableRedis
from icestream.tasks import cancel

PROOF_LOOK_S = 0.1
REDIS_LOOK_S = 1.0


async def run(settings: BridgeSettings, log: Log) -> None:
    metrics = BridgeMetrics(CollectorRegistry())
    log.info("serving /metrics", port=metrics.serve(settings.metrics_host, settings.metrics_port))
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)

    def report(states: dict[str, int], reason: str) -> None:
        metrics.tritons(states)
        if reason:
            log.warning("not every Triton is asked", reason=reason, **states)
        elif served := model.model:
            log.info(
                "the model is proved",
                model=served.name,
                version=served.version,
                max_pulses=served.max_pulses,
                checkpoint=served.checkpoint,
                known_answers=len(served.known_answers),
                **states,
            )

    collect_rarely()
    redis = connect_asyncio(settings.redis_url, settings.redis_password)
    first = await _first_model(redis, settings.model, metrics=metrics, log=log, stopping=stopping)
    model = FollowedModel(settings.triton_url, first, settings.request_timeout_s, changed=report)
    following = asyncio.create_task(follow_serving(redis, model.follow))
    try:
        if await _first_proof(model, metrics=metrics, stopping=stopping):
            await _work(settings, model, redis, metrics=metrics, log=log, stopping=stopping)
    finally:
        await cancel([following])
        await model.close()
        await redis.aclose()
    log.info("stopped")


async def _first_model(
    redis: AsyncRedis, default: str, *, metrics: BridgeMetrics, log: Log, stopping: asyncio.Event
) -> str:
    """The model that is served, as soon as Redis says which; the default where it was never said."""
    while not stopping.is_set():
        try:
            serving = await read_serving_asyncio(redis)
            return serving.champion.name if serving else default
        except RedisError as error:
            if not is_away(error):
                break
            metrics.beat("redis")
            metrics.retry("redis")
            log.warning("Redis does not say which model is served, asking again", error=str(error))
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), REDIS_LOOK_S)
    return default


async def _first_proof(model: FollowedModel, *, metrics: BridgeMetrics, stopping: asyncio.Event) -> bool:
    """Wait until the model is proved; False if a stop came first."""
    while model.model is None:
        metrics.beat("triton")
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), PROOF_LOOK_S)
            return False
    return True


async def _work(
    settings: BridgeSettings,
    model: FollowedModel,
    redis: AsyncRedis,
    *,
    metrics: BridgeMetrics,
    log: Log,
    stopping: asyncio.Event,
) -> None:
    queue = EventQueue(redis, settings.consumer, settings.claim_idle_s)
    worker = Worker(
        settings,
        queue,
        BatchInference(
            model,
            queue,
            max_batch=settings.max_batch,
            timeout_s=settings.request_timeout_s,
            position_m=nominal_icecube86().position_m,
            metrics=metrics,
            log=log,
        ),
        LeaseKeeper(
            queue, lambda: read_status_asyncio(redis), claim_idle_s=settings.claim_idle_s, metrics=metrics, log=log
        ),
        metrics=metrics,
        log=log,
    )

    async def stop_worker() -> None:
        await stopping.wait()
        worker.stop()

    stopper = asyncio.create_task(stop_worker())
    await worker.run()
    stopper.cancel()


def main() -> None:
    settings = load(BridgeSettings, "bridge")
    try:
        asyncio.run(run(settings, configure_logs("bridge")))
    except UnsuitableRedis as error:
        sys.exit(f"bridge: {error}")


if __name__ == "__main__":
    main()
