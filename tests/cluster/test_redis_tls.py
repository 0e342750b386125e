"""Redis behind TLS, with a user who may touch the stream's keys alone."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from redis import Redis

from icestream.streams import keys
from launcher.redis_server import find_redis
from tests.cluster.redis import Server
from tests.recorder.streams import spooled
from tests.servers import Program, TritonProcess
from tests.waiting import wait_until
from tritonserver.process import HOST

pytestmark = pytest.mark.cluster
USER, PASSWORD = "stream", "a pass/word"


class SecureRedis(Server):
    """A server that speaks TLS on a port of its own, and in the clear for the test alone."""

    def __init__(self, folder: Path):
        authority, certificates = trustme.CA(), folder.with_name("certificates")
        certificates.mkdir()
        certificate = authority.issue_cert("localhost", HOST)
        certificate.private_key_pem.write_to_path(certificates / "key.pem")
        certificate.cert_chain_pems[0].write_to_path(certificates / "cert.pem")
        self.ca_file = certificates / "ca.pem"
        authority.cert_pem.write_to_path(self.ca_file)
        files = ("--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem", "--tls-ca-cert-file", "ca.pem")
        paths = [word if word.startswith("--") else str(certificates / word) for word in files]
        super().__init__(folder, *paths, "--tls-auth-clients", "no")
        with Redis(host=HOST, port=self.port, protocol=2) as client:
            client.config_set("tls-port", self.port + 1)
            client.acl_setuser(
                USER, enabled=True, passwords=[f"+{PASSWORD}"], keys=["{icestream}:*", "icestream:*"], commands=["+@all", "-@admin", "-@dangerous", "+info", "+keys"]
            )  # fmt: skip
        self.url = f"rediss://{USER}@localhost:{self.port + 1}?ssl_ca_certs={self.ca_file}"


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[SecureRedis]:
    if "wheel" in (server := find_redis()).version:
        pytest.skip(f"{server.version} speaks no TLS: apt-get install redis-server")
    one = SecureRedis(tmp_path / "secure")
    yield one
    one.kill()


def test_the_stream_runs_through_tls_as_a_user_of_its_own(
    secure: SecureRedis, tmp_path: Path, triton: TritonProcess, program: Callable[..., Program]
) -> None:
    password = tmp_path / "password"
    password.write_text(PASSWORD + "\n")
    given = {"redis_url": secure.url, "redis_password_file": password}
    program("bridge", triton_url=triton.url, **given)
    program("recorder", mlflow_url="http://127.0.0.1:1", spool_dir=tmp_path / "spool", window_s=0.5, **given)
    program("display", triton_url=triton.url, port=0, **given)
    program("emitter", count=50, rate="max", run_id=1, **given)
    wait_until(lambda: len(spooled(tmp_path / "spool")) == 50, "all are recorded", 60)
    with Redis(host=HOST, port=secure.port, protocol=2) as client:
        assert client.xlen(keys.REJECTED) == 0
        assert USER in {one["user"] for one in client.client_list()}


def test_a_redis_of_another_authority_is_not_believed(
    secure: SecureRedis, tmp_path: Path, program: Callable[..., Program]
) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    url = secure.url.replace(str(secure.ca_file), str(tmp_path / "other.pem"))
    process = program("emitter", redis_url=url, count=1)
    wait_until(lambda: "CERTIFICATE_VERIFY_FAILED" in process.log, "it is said", 60)
    assert PASSWORD not in process.log
    assert process.stop() == 0
