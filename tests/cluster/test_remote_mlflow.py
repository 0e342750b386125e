"""An MLflow that somebody else runs: TLS, and a token."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.cluster.envoy import Front, token
from tests.recorder.streams import put_results
from tests.servers import Program, RedisProcess
from tests.waiting import wait_until

pytestmark = pytest.mark.cluster


def test_results_are_uploaded_with_a_token_and_wait_without(
    redis: Any, redis_server: RedisProcess, mlflow_url: str, program: Callable[..., Program], tmp_path: Path
) -> None:
    authority, ca_file = trustme.CA(), tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    front = Front(tmp_path / "front", mlflow_url.removeprefix("http://"), authority, http1=True)
    given = {
        "redis_url": redis_server.url, "mlflow_url": f"https://{front.url}", "spool_dir": tmp_path / "spool", "window_s": 0.5,
    }  # fmt: skip
    trusted = {"MLFLOW_TRACKING_SERVER_CERT_PATH": str(ca_file)}
    uploads = "icestream_recorder_uploads_total"
    try:
        recorder = program("recorder", variables=trusted, **given)
        put_results(redis, *range(20))
        wait_until(lambda: recorder.metric(uploads, outcome="failed") > 0, "they are refused", 60)
        assert recorder.metric(uploads, outcome="done") == 0
        assert recorder.stop(90) == 0
        recorder = program("recorder", variables={**trusted, "MLFLOW_TRACKING_TOKEN": token(3600)}, **given)
        wait_until(lambda: recorder.metric(uploads, outcome="done") > 0, "they are uploaded", 60)
        assert recorder.stop(90) == 0
        assert not list((tmp_path / "spool").glob("*/window-0*.parquet"))
    finally:
        front.kill()
