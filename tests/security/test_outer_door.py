"""compose.door.yaml: one login before the pages, tried with a real nginx before a real display."""

import base64
import hashlib
import http.server
import json
import os
import re
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import trustme
import yaml

from tests.servers import Display, RedisProcess, TritonProcess
from tests.waiting import ROOT
from tritonserver.process import HOST, is_free, start_server, stop_server

LOGIN = "Basic " + base64.b64encode(b"anna:a pass:word").decode()
WRONG = "Basic " + base64.b64encode(b"anna:guess").decode()
BEHIND = ("display:8080", "grafana:3000", "mlflow:5000", "prometheus:9090")
PUBLISHED = (8443, 3443, 5443, 9443)


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers with the headers that it was asked with."""

    def do_GET(self) -> None:
        body = json.dumps(dict(self.headers)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@dataclass(frozen=True)
class Door:
    """The running nginx: the display at the first port, a server that echoes headers at the others."""

    ports: list[int]
    context: ssl.SSLContext

    def ask(self, path: str, number: int = 0, **headers: str) -> tuple[int, bytes]:
        request = urllib.request.Request(f"https://localhost:{self.ports[number]}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30, context=self.context) as answer:
                return answer.status, answer.readline()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()


@pytest.fixture(scope="module")
def door(
    tmp_path_factory: pytest.TempPathFactory,
    tool: Callable[[str], str],
    shared_redis: RedisProcess,
    shared_triton: TritonProcess,
) -> Iterator[Door]:
    folder = tmp_path_factory.mktemp("door")
    display = Display(folder, redis_url=shared_redis.url, triton_url=shared_triton.url)
    echo = http.server.ThreadingHTTPServer((HOST, 0), Echo)
    threading.Thread(target=echo.serve_forever, daemon=True).start()
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    hashed = hashlib.sha1(b"a pass:wordsalt").digest() + b"salt"
    (folder / "users").write_text("anna:{SSHA}" + base64.b64encode(hashed).decode() + "\n")
    config = (ROOT / "deploy" / "door" / "nginx.conf").read_text().replace("/tmp/", f"{folder}/")
    config = config.replace(" /door/", f" {folder}/").replace("http://display:8080", display.url)
    config = "user root;\n" + config if os.getuid() == 0 else config  # whose folders these are
    for behind in BEHIND[1:]:
        config = config.replace(behind, f"{HOST}:{echo.server_port}")

    def command(ports: Any) -> list[str]:
        own = config
        for published, port in zip(PUBLISHED, ports, strict=True):
            own = own.replace(f"listen {published} ", f"listen {HOST}:{port} ")
        (folder / "nginx.conf").write_text(own)
        return [tool("nginx"), "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", "daemon off;"]

    process, ports = start_server(
        command, 4, ready=lambda ports: not is_free(ports[3]), log=folder / "nginx.log", environment={}
    )
    context = ssl.create_default_context()
    authority.configure_trust(context)
    yield Door(ports, context)
    stop_server(process)
    echo.shutdown()
    echo.server_close()
    display.process.kill()


def test_nobody_gets_in_without_the_login(door: Door) -> None:
    for number in range(4):
        assert door.ask("/", number)[0] == 401
        assert door.ask("/", number, Authorization=WRONG)[0] == 401
        assert door.ask("/", number, Authorization=LOGIN)[0] == 200


def test_the_page_and_its_events_come_through(door: Door) -> None:
    assert door.ask("/live", Authorization=LOGIN) == (200, b"retry: 1000\n")
    assert "backlog" in json.loads(door.ask("/v1/status", Authorization=LOGIN)[1])


def test_a_page_of_another_origin_is_refused_although_the_browser_sends_the_login(door: Door) -> None:
    own = f"https://localhost:{door.ports[0]}"
    assert door.ask("/v1/status", Authorization=LOGIN, Origin=own)[0] == 200
    others = (
        "https://evil.example",
        "null",
        own.replace("https", "http"),
        own + "0",
        f"https://localhost:{door.ports[1]}",
    )
    assert [door.ask("/v1/status", Authorization=LOGIN, Origin=other)[0] for other in others] == [403] * len(others)


def test_what_is_behind_does_not_see_the_login(door: Door) -> None:
    seen = json.loads(door.ask("/", 1, Authorization=LOGIN)[1])
    assert "Authorization" not in seen
    assert (seen["Host"], seen["X-Forwarded-For"]) == ("localhost", HOST)


def test_it_speaks_no_plain_http(door: Door) -> None:
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(f"http://localhost:{door.ports[0]}/", timeout=30)


def test_the_file_publishes_what_the_configuration_serves() -> None:
    overlay = yaml.safe_load((ROOT / "compose.door.yaml").read_text())
    service = overlay["services"].pop("door")
    config = (ROOT / "deploy" / "door" / "nginx.conf").read_text()
    assert [f"{port}:{port}" for port in PUBLISHED] == service["ports"]
    assert [int(port) for port in re.findall(r"listen (\d+) ssl", config)] == list(PUBLISHED)
    assert re.findall(r"proxy_pass http://([\w:]+);", config) == list(BEHIND)
    assert overlay["services"] == {name.split(":")[0]: {"networks": ["door"]} for name in BEHIND}
    assert (service["cap_drop"], service["read_only"], service["user"]) == (["ALL"], True, "10001:10001")


def test_no_key_and_no_login_can_be_committed() -> None:
    assert "/door/" in (ROOT / ".gitignore").read_text().splitlines()
