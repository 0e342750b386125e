"""The dashboards: what is committed is what the code makes, and every query finds something in a running stream."""

import itertools
import json
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from dashboards.grafana.__main__ import DASHBOARDS, FOLDER, as_json
from dashboards.grafana.preview import ask
from icestream.streams import keys
from tests.servers import Program, RedisProcess, TritonProcess
from tests.waiting import ROOT, wait_until
from tritonserver.process import HOST, answers, start_server, stop_server

LOADED = {name: json.loads((FOLDER / f"{name}.json").read_text()) for name in DASHBOARDS}
PANELS = [
    pytest.param(panel, id=f"{name}: {panel['title']}") for name, board in LOADED.items() for panel in board["panels"]
]
# What a stream on a machine without a GPU never shows: GPUs; and what only happens when something breaks.
EMPTY = {"nv_gpu_utilization", "nv_gpu_memory_used_bytes", "nv_gpu_power_usage", "ALERTS"}
# What only these show.
GPU = {
    "nv_gpu_utilization",
    "nv_gpu_memory_used_bytes",
    "nv_gpu_memory_total_bytes",
    "nv_gpu_power_usage",
    "nv_gpu_power_limit",
}


def expressions(panel: dict[str, Any]) -> list[str]:
    return [target["expr"] for target in panel["targets"]]


def metrics_in(expr: str) -> set[str]:
    words = set(re.findall(r"\b(?:icestream|redis|nv)[_:][\w:]+|\bup\b", re.sub(r'"[^"]*"', '""', expr)))
    return words | {
        f"icestream_{process}_heartbeat_timestamp_seconds"
        for process in ("emitter", "bridge", "deployer", "recorder", "display")
        if "(emitter|bridge|deployer|recorder|display)_heartbeat" in expr
    }


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_committed_dashboard_is_what_the_code_makes(name: str) -> None:
    assert (FOLDER / f"{name}.json").read_text() == as_json(DASHBOARDS[name]()), "run python -m dashboards.grafana"


def test_dashboards_have_ids_of_their_own_and_cannot_be_edited_by_accident() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(DASHBOARDS)
    assert len({board["uid"] for board in LOADED.values()}) == len(LOADED)
    for board in LOADED.values():
        assert board["editable"] is False
    provider = yaml.safe_load((FOLDER.parent / "provisioning" / "dashboards" / "icestream.yml").read_text())
    assert provider["providers"][0]["allowUiUpdates"] is False


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_are_numbered_and_do_not_overlap(name: str) -> None:
    panels = LOADED[name]["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        x, y = place.get("x", 0), place.get("y", 0)
        assert x + place["w"] <= 24
        own = set(itertools.product(range(x, x + place["w"]), range(y, y + place["h"])))
        assert not cells & own, panel["title"]
        cells |= own


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_variable_is_defined(name: str) -> None:
    defined = {variable["name"] for variable in LOADED[name]["templating"]["list"]} | {"__rate_interval"}
    text = (FOLDER / f"{name}.json").read_text()
    assert set(re.findall(r"\$\{?(\w+)", text)) <= defined


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_explains_itself_and_its_queries_parse(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith((".", "%"))
    assert panel["datasource"]["uid"] == "${datasource}"
    for expr in expressions(panel):
        promql_parser.parse(expr.replace("$__rate_interval", "1m"))


@pytest.fixture(scope="module")
def watched(
    tmp_path_factory: pytest.TempPathFactory,
    shared_redis: RedisProcess,
    shared_triton: TritonProcess,
    mlflow_url: str,
    tool: Callable[[str], str],
) -> Iterator[str]:
    """The address of a Prometheus with our configuration and rules that has watched a running stream for a while."""
    folder = tmp_path_factory.mktemp("watched")
    shared_redis.client.flushall()
    redis_url = shared_redis.url
    programs = {
        "bridge": Program("bridge", folder, redis_url=redis_url, triton_url=shared_triton.url),
        "challenger": Program("bridge", folder, redis_url=redis_url, triton_url=shared_triton.url, challenger=True),
        "deployer": Program(
            "deployer", folder, redis_url=redis_url, triton_url=shared_triton.url, mlflow_url=mlflow_url, registered_model="watched",
            shipped=shared_triton.repository, repository=folder / "deployed",
        ),
        "recorder": Program(
            "recorder", folder, redis_url=redis_url, mlflow_url=mlflow_url, experiment="watched",
            spool_dir=folder / "spool", window_s=2, part_s=10,
        ),
        "emitter": Program("emitter", folder, redis_url=redis_url, rate=50),
        "display": Program("display", folder, redis_url=redis_url, triton_url=shared_triton.url, port=0),
    }  # fmt: skip
    ports = {name: program.port for name, program in programs.items()}
    ports |= {"triton": shared_triton.metrics, "alertmanager": 1}
    streams_shown = "{icestream}:events,{icestream}:truth,{icestream}:directions,{icestream}:rejected"
    exporter, [ports["redis"]] = start_server(
        lambda free: [
            tool("prometheus-redis-exporter"), "-redis.addr", redis_url, "-web.listen-address", f"{HOST}:{free[0]}",
            "-check-single-streams", streams_shown,
        ],
        1,
        ready=lambda free: answers(f"http://{HOST}:{free[0]}/metrics"),
        log=folder / "exporter.log",
        environment={},
    )  # fmt: skip

    def prometheus(free: Sequence[int]) -> list[str]:
        write_prometheus_config(folder / "prometheus.yml", {**ports, "prometheus": free[0]})
        return [
            tool("prometheus"), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address={HOST}:{free[0]}",
        ]  # fmt: skip

    server, [port] = start_server(
        prometheus,
        1,
        ready=lambda free: answers(f"http://{HOST}:{free[0]}/-/ready"),
        log=folder / "prometheus.log",
        environment={},
    )
    url = f"http://{HOST}:{port}"
    try:
        wait_until(lambda: programs["bridge"].metric("icestream_bridge_events_total") > 100, "the stream runs", 60)
        wait_until(lambda: value(url, "icestream:accuracy:opening_angle_ratio"), "ten minutes' figures have begun", 60)
        for recorded in ("icestream:emitted:rate1m", "icestream:stored:rate1m", "icestream:latency:p99"):
            wait_until(lambda: value(url, recorded) > 0, f"{recorded} has begun", 60)  # noqa: B023 (waited for at once)
        shared_redis.client.xadd(keys.EVENTS, {"e": b"no event"})  # one that is rejected
        page = programs["display"].said("serving", "address")
        asked = "sum(rate(icestream_display_requests_total[1m]))"
        wait_until(
            lambda: answers(f"{page}/v1/status") and value(url, asked) > 0, "a request is seen between scrapes", 60
        )
        served = 'sum(rate(nv_inference_request_success{model="icemix"}[1m]))'
        wait_until(lambda: value(url, served) > 0, "Triton was scraped twice")
        reasons = "sum by (reason) (increase(icestream_bridge_rejected_total[1m]))"
        wait_until(lambda: ask(url, reasons, True, now(url)), "the reason of a rejected entry is seen", 60)
        yield url
    finally:
        for program in programs.values():
            program.close()
        for process in (exporter, server):
            stop_server(process)


def write_prometheus_config(path: Path, ports: dict[str, int]) -> None:
    """Our configuration with static targets, by job, in place of those that Docker's DNS finds."""
    config = yaml.safe_load((ROOT / "dashboards" / "prometheus" / "prometheus.yml").read_text())
    config["rule_files"] = [str(ROOT / "dashboards" / "prometheus" / "rules.yml")]
    for job in config["scrape_configs"]:
        job.pop("dns_sd_configs", None)
        job["static_configs"] = [{"targets": [f"{HOST}:{ports[job['job_name']]}"]}]
    path.write_text(yaml.safe_dump(config))


def value(prometheus: str, expr: str) -> float:
    found = ask(prometheus, expr, True, now(prometheus))
    return float(found[0]["points"][0][1]) if found else 0.0


def now(prometheus: str) -> float:
    with urllib.request.urlopen(f"{prometheus}/api/v1/query?query=time()") as answer:
        return float(json.load(answer)["data"]["result"][0])


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_shows_something_of_a_running_stream(watched: str, panel: dict[str, Any]) -> None:
    for expr in expressions(panel):
        if not any(name in expr for name in EMPTY):
            assert ask(watched, expr, bool(panel["targets"][0].get("instant")), now(watched)), expr


def test_dashboards_and_rules_name_only_metrics_that_exist(watched: str) -> None:
    with urllib.request.urlopen(f"{watched}/api/v1/label/__name__/values") as answer:
        exist = set(json.load(answer)["data"]) | GPU
    rules = yaml.safe_load((ROOT / "dashboards" / "prometheus" / "rules.yml").read_text())
    used = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    used += [expr for board in LOADED.values() for panel in board["panels"] for expr in expressions(panel)]
    named = set().union(*map(metrics_in, used))
    assert len(named) > 40
    assert named <= exist


def test_all_is_well_while_all_is_well(watched: str) -> None:
    with urllib.request.urlopen(f"{watched}/api/v1/rules") as answer:
        rules = [rule for group in json.load(answer)["data"]["groups"] for rule in group["rules"]]
    assert [rule["lastError"] for rule in rules if rule["health"] != "ok"] == []
    firing = {rule["name"] for rule in rules if rule["type"] == "alerting" and rule["state"] == "firing"}
    assert firing <= {"RejectedEntries", "TargetDown"}  # there is no Alertmanager here


def test_a_preview_is_drawn_of_every_dashboard(watched: str, tmp_path: Path) -> None:
    command = ["python", "-m", "dashboards.grafana.preview", watched, str(tmp_path)]
    subprocess.run([str(ROOT / ".venv" / "bin" / command[0]), *command[1:]], check=True, cwd=ROOT)
    for name in DASHBOARDS:
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
