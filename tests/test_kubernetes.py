"""deploy/kubernetes: rendered and validated, and the same programs, settings and limits as compose.yaml. It was never applied."""

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import numpy as np
import pytest
import yaml

from bench.autoscaling import Policy, Trace, burst, outage, simulate, steady
from bridge.settings import BridgeSettings
from dashboards.kubernetes import WRITTEN, prometheus_rule
from emitter.settings import EmitterSettings
from icestream.streams import keys
from icestream.streams.users import acl_file, user_names
from tests.crds import SCHEMAS, TRIGGER_METADATA
from tests.waiting import ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
OURS = ("emitter", "bridge", "challenger", "deployer", "recorder", "display")
VERSIONS = [f"1.{minor}" for minor in range(31, 38)]
Objects = list[dict[str, Any]]


@cache
def rendered(overlay: str) -> Objects:
    """The objects of an overlay, as `kubectl apply -k` would send them."""
    kubectl = Path(sys.executable).with_name("kubectl")
    command = [kubectl, "kustomize", KUBERNETES / "overlays" / overlay]
    return list(yaml.safe_load_all(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def of_kind(overlay: str, *kinds: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in rendered(overlay) if one["kind"] in kinds}


def pods(overlay: str) -> dict[str, dict[str, Any]]:
    """The pod's specification of each workload."""
    return {
        name: one["spec"]["template"]["spec"] for name, one in of_kind(overlay, "Deployment", "StatefulSet").items()
    }


def containers(overlay: str) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name of each container, itself, and its pod."""
    for pod in pods(overlay).values():
        for container in (*pod["containers"], *pod.get("initContainers", [])):
            yield container["name"], container, pod


def container(name: str, overlay: str = "cpu") -> dict[str, Any]:
    return next(one for found, one, _ in containers(overlay) if found == name)


def environment(name: str, overlay: str = "cpu") -> dict[str, str]:
    return {one["name"]: one.get("value", "") for one in container(name, overlay).get("env", [])}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_is_one_that_kubernetes_knows(overlay: str, version: str) -> None:
    for one in rendered(overlay):
        if one["kind"] not in SCHEMAS:
            kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_objects_of_keda_and_of_the_prometheus_operator_have_no_unknown_field(overlay: str) -> None:
    custom = [one for one in rendered(overlay) if one["kind"] in SCHEMAS]
    assert {one["kind"] for one in custom} == SCHEMAS.keys()
    for one in custom:
        jsonschema.validate(one["spec"], SCHEMAS[one["kind"]])
        for trigger in one["spec"].get("triggers", ()):
            assert trigger["metadata"].keys() <= TRIGGER_METADATA[trigger["type"]]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_all_is_in_one_namespace_and_what_is_mounted_is_there(overlay: str) -> None:
    made = subprocess.run([KUBERNETES / "secrets"], check=True, capture_output=True, text=True).stdout
    secrets = {one["metadata"]["name"]: one["stringData"] for one in yaml.safe_load_all(made)}
    secrets["triton-token"] = {"token": "of whoever runs that Triton"}
    configs = of_kind(overlay, "ConfigMap")
    for one in rendered(overlay):
        if one["kind"] != "Namespace":
            assert one["metadata"]["namespace"] == "icestream", one["metadata"]["name"]
    for name, one in of_kind(overlay, "Deployment", "StatefulSet").items():
        pod = one["spec"]["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        claims = {claim["metadata"]["name"] for claim in one["spec"].get("volumeClaimTemplates", ())}
        for container in (*pod["containers"], *pod.get("initContainers", [])):
            assert {mount["name"] for mount in container.get("volumeMounts", ())} <= volumes.keys() | claims, name
        for volume in volumes.values():
            if "configMap" in volume:
                assert volume["configMap"]["name"] in configs
            if "secret" in volume:
                wanted = {item["key"] for item in volume["secret"].get("items", ())}
                assert wanted <= secrets[volume["secret"]["secretName"]].keys()
            for source in volume.get("projected", {}).get("sources", ()):
                assert source["secret"]["name"] in secrets


def test_secrets_are_made_and_no_two_are_alike() -> None:
    made = [
        subprocess.run([KUBERNETES / "secrets"], check=True, capture_output=True, text=True).stdout for _ in range(2)
    ]
    first, second = ({one["metadata"]["name"]: one["stringData"] for one in yaml.safe_load_all(text)} for text in made)
    password = first["redis-auth"]["password"]
    assert len(password) >= 32
    assert password != second["redis-auth"]["password"]
    assert first["redis-exporter"]["exporter.json"] != second["redis-exporter"]["exporter.json"]
    passwords = {name.removeprefix("redis-"): one["password"] for name, one in first.items() if "password" in one}
    assert len(set(passwords.values())) == len(passwords)
    passwords["admin"] = passwords.pop("auth")
    passwords["exporter"] = json.loads(first["redis-exporter"]["exporter.json"])["redis://exporter@localhost:6379"]
    assert passwords.keys() == set(user_names())
    assert first["redis-auth"]["users.acl"] == acl_file(passwords)
    for overlay in OVERLAYS:
        assert not of_kind(overlay, "Secret")


@pytest.mark.parametrize("name", OURS)
def test_our_processes_are_told_the_same_as_by_compose(name: str) -> None:
    def settings(found: dict[str, str]) -> dict[str, str]:
        return {
            key: re.sub(r"\$\{\w+:-(.*)\}", r"\1", str(value))
            for key, value in found.items()
            if key.startswith("ICESTREAM_")
        }

    here, there = settings(environment(name)), settings(COMPOSE[name]["environment"])
    elsewhere = {
        "DEPLOYER_TRITON_OWN", "DISPLAY_MLFLOW_PAGE", "DISPLAY_GRAFANA_PAGE",  # of one machine, or of a pod
    }  # fmt: skip
    for key in here.keys() | there.keys():
        short = key.removeprefix("ICESTREAM_")
        if short.endswith("_TRITON_URL"):
            assert here[key] == f"dns:///{there[key]}"  # each address of the headless service is a server
        elif short.endswith("_SESSION"):
            assert (here[key], there[key]) == ("kubernetes", "compose")
        elif short not in elsewhere:
            assert here[key] == there[key], key


@pytest.mark.parametrize("name", ["redis", "triton", "mlflow"])
def test_servers_are_started_as_compose_starts_them(name: str) -> None:
    there = [re.sub(r"\$\{\w+:-(.*)\}", r"\1", word) for word in COMPOSE[name]["command"]]
    there = [
        word for word in there if not word.startswith(("--http-address", "--metrics-address"))
    ]  # a pod's probes come from outside it
    assert container(name)["args"] == there
    if name == "triton":
        entry = [word.replace("$$", "$") for word in COMPOSE[name]["entrypoint"]]
        assert container(name)["command"] == entry


def test_images_limits_users_and_times_are_those_of_compose() -> None:
    units = {"g": 2**30, "m": 2**20, "Gi": 2**30, "Mi": 2**20}

    def size(text: str) -> int:
        number, unit = re.fullmatch(r"(\d+)(\w+)", re.sub(r"\$\{\w+:-(.*)\}", r"\1", text)).groups()  # type: ignore[union-attr]
        return int(number) * units[unit]

    for name, one, pod in containers("cpu"):
        service = COMPOSE.get({"exporter": "redis-exporter"}.get(name, name))
        if service is None:
            assert name == "models"
            continue
        image = one["image"].removeprefix("registry.example.org/")
        if "build" in service:
            assert image == f"icestream-{service['build']['target']}:0.1.0"
        else:
            assert image == service["image"]
        assert size(one["resources"]["limits"]["memory"]) == size(service["mem_limit"]), name
        if name not in ("deployer", "exporter"):  # in the pod of another
            given = service.get("stop_grace_period", "10s").removesuffix("s")
            assert pod["terminationGracePeriodSeconds"] >= int(given), name
    for name in ("bridge", "challenger"):
        assert pods("cpu")[name]["terminationGracePeriodSeconds"] > BridgeSettings.model_fields["drain_s"].default


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_container_has_more_rights_than_it_needs(overlay: str) -> None:
    [namespace] = of_kind(overlay, "Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for name, one, pod in containers(overlay):
        context = one["securityContext"]
        assert context["readOnlyRootFilesystem"], name
        assert not context["allowPrivilegeEscalation"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert {"cpu", "memory"} <= one["resources"]["requests"].keys()
        assert "memory" in one["resources"]["limits"]
        assert re.search(r":v?\d+\.\d+", one["image"]), one["image"]
        if one not in pod.get("initContainers", []):
            assert "livenessProbe" in one


def test_checkov_finds_nothing_that_is_not_explained(tmp_path: Path) -> None:
    for overlay in ("gpu", "remote-triton"):
        (tmp_path / f"{overlay}.yaml").write_text(yaml.safe_dump_all(rendered(overlay)))
    command = [
        Path(sys.executable).with_name("checkov"),
        "--config-file",
        KUBERNETES / "checkov.yaml",
        "--skip-download",
    ]
    done = subprocess.run([*command, "--directory", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    explained = (KUBERNETES / "checkov.yaml").read_text().splitlines()
    assert all(" # " in line for line in explained if "CKV" in line)


def needed() -> set[tuple[str, str, int]]:
    """Who asks whom at which port, by the addresses that the processes are given."""
    found = set()
    for name in OURS:
        for value in environment(name).values():
            if match := re.fullmatch(r"(?:\w+://+)?(?:\w+@)?(\w+):(\d+)", value):
                found.add(("triton" if name == "deployer" else name, match[1], int(match[2])))
    return found


def labels(selector: dict[str, Any]) -> set[str]:
    found = {value for key, value in selector.get("matchLabels", {}).items() if key == "app.kubernetes.io/name"}
    return found.union(*(one["values"] for one in selector.get("matchExpressions", ())))


def test_the_network_lets_through_what_processes_ask_for_and_nothing_else() -> None:
    policies = of_kind("cpu", "NetworkPolicy")
    assert policies["default-deny"]["spec"]["podSelector"] == {}
    assert policies["default-deny"]["spec"]["policyTypes"] == ["Ingress", "Egress"]
    allowed: dict[str, set[tuple[str, str, int]]] = {"ingress": set(), "egress": set()}
    for name, policy in policies.items():
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            for rule in policy["spec"].get(direction, ()):
                assert peers in rule or name == "dns", name
                for peer in rule.get(peers, ()):
                    if "podSelector" in peer:
                        ends = labels(policy["spec"]["podSelector"]), labels(peer["podSelector"])
                        near, far = ends if direction == "egress" else ends[::-1]
                        ports = {port["port"] for port in rule["ports"]}
                        allowed[direction] |= {(one, other, port) for one in near for other in far for port in ports}
                    else:
                        assert name in ("metrics", "redis"), name
    assert allowed["ingress"] == allowed["egress"] == needed()


def test_bridges_are_added_by_the_length_of_the_stream_before_the_emitters_wait() -> None:
    spec = of_kind("cpu", "ScaledObject")["bridge"]["spec"]
    metadata = {trigger["type"]: trigger["metadata"] for trigger in spec["triggers"]}["redis-streams"]
    assert metadata.keys() == {
        "address",
        "stream",
        "streamLength",
    }  # a consumerGroup would ask for lag or pending entries
    assert metadata["stream"] == keys.EVENTS
    assert int(metadata["streamLength"]) * spec["maxReplicaCount"] < EmitterSettings.model_fields["max_backlog"].default
    assert int(metadata["streamLength"]) <= BridgeSettings.model_fields["max_held"].default
    assert spec["fallback"]["replicas"] >= 1
    bridge = of_kind("cpu", "Deployment")["bridge"]["spec"]
    assert "replicas" not in bridge  # applying again would undo what KEDA did


def settled(trace: Trace, after_s: int) -> int:
    """How often the number of pods changed after a while."""
    return int(np.count_nonzero(np.diff(trace.pods[after_s:])))


def test_the_autoscaler_settles_and_does_not_flap() -> None:
    policy = Policy.of_manifest()
    for per_s in (50, 1000, 3000, 6000, 10_000):
        trace = simulate(policy, lambda _, per_s=per_s: per_s, seconds=3600)  # type: ignore[misc]
        assert settled(trace, 600) == 0, per_s
        assert max(trace.backlog[600:]) < policy.stream_length
    for seed in range(5):
        trace = simulate(policy, burst, seconds=3600, seed=seed)
        assert max(trace.pods) > 2
        assert (trace.pods[-1], trace.backlog[-1]) == (1, 0)
        ups = [now > before for before, now in pairwise(trace.pods) if now != before]
        assert ups == sorted(ups, reverse=True)  # up, then down, once
        trace = simulate(policy, lambda _: 3000.0, seconds=3600, triton_per_s=outage, seed=seed)
        ups = [now > before for before, now in pairwise(trace.pods) if now != before]
        assert ups == sorted(ups, reverse=True)
        assert max(trace.pods) <= policy.most
        assert trace.backlog[-1] < policy.stream_length
        assert sum(trace.arrived) == pytest.approx(sum(trace.answered) + trace.backlog[-1])


def test_by_the_length_of_the_stream_alone_it_would_flap() -> None:
    """Why bridges are added by their CPU as well."""
    policy = replace(Policy.of_manifest(), cpu_cores=math.inf)
    assert settled(simulate(policy, steady, seconds=3600), 600) > 5


def test_tritons_are_added_by_how_long_the_champion_waits_alone(tool: Callable[[str], str], tmp_path: Path) -> None:
    """An ensemble of two members, on two pods: what waits is counted in the members, and each request once."""
    rates = {  # a second of each pod: microseconds of waiting, requests
        "icemix-v2": (0, 10), "icemix-v2+a": (300_000, 10), "icemix-v2+b": (500_000, 10), "icemix": (9_000_000, 5), "icemix-v3": (4_000_000, 7),
    }  # fmt: skip
    series = [
        {"series": f'{metric}{{namespace="icestream", pod="{pod}", model="{model}"}}', "values": f"0+{15 * each}x40"}
        for model, pair in rates.items()
        for metric, each in zip(("nv_inference_queue_duration_us", "nv_inference_request_success"), pair, strict=True)
        for pod in ("triton-0", "triton-1")
    ]
    serving = 'namespace="icestream", champion="icemix-v2", challenger="icemix-v3", previous="icemix"'
    deployers = [
        {"series": f'icestream_deployer_serving_info{{pod="{pod}", {serving}}}', "values": "1x40"}
        for pod in ("triton-0", "triton-1")
    ]
    [trigger] = of_kind("cpu", "ScaledObject")["triton"]["spec"]["triggers"]
    cases = [(series + deployers, 80.0), (deployers, 0.0), (series, 0.0)]  # milliseconds
    tests = [
        {
            "interval": "15s",
            "input_series": given,
            "promql_expr_test": [
                {
                    "expr": trigger["metadata"]["query"],
                    "eval_time": "9m",
                    "exp_samples": [{"labels": "{}", "value": ms}],
                }
            ],
        }
        for given, ms in cases
    ]
    (tmp_path / "query.yml").write_text(yaml.safe_dump({"evaluation_interval": "15s", "tests": tests}))
    done = subprocess.run(
        [tool("promtool"), "test", "rules", "query.yml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_kept_alone_cannot_be_two() -> None:
    for name in ("redis", "recorder", "mlflow"):
        assert of_kind("cpu", "StatefulSet")[name]["spec"]["replicas"] == 1
    assert of_kind("cpu", "Deployment")["emitter"]["spec"]["strategy"] == {"type": "Recreate"}


def test_processes_are_scraped_under_the_names_that_the_rules_know() -> None:
    assert WRITTEN.read_text() == prometheus_rule(), "run: python -m dashboards.kubernetes"
    scraped = yaml.safe_load((ROOT / "dashboards" / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    jobs = {one["job_name"] for one in scraped} - {"prometheus", "alertmanager"}
    found = set()
    monitors = of_kind("cpu", "PodMonitor")
    templates = {name: one["spec"]["template"] for name, one in of_kind("cpu", "Deployment", "StatefulSet").items()}
    for name, template in templates.items():
        wanted = monitors["icestream"]["spec"]["selector"]["matchLabels"]
        if name != "mlflow":
            assert wanted.items() <= template["metadata"]["labels"].items(), name
        for one in template["spec"]["containers"]:
            for port in one.get("ports", ()):
                if port["name"] == "metrics":
                    found.add(name)
                elif port["name"] == "deployer-metrics":
                    found.add("deployer")
    assert found == jobs
    [dashboards] = [one for name, one in of_kind("cpu", "ConfigMap").items() if "dashboards" in name]
    for name, text in dashboards["data"].items():
        assert text == (ROOT / "dashboards" / "grafana" / "json" / name).read_text()


def test_overlays_change_what_they_are_for() -> None:
    assert "--model-config-name=gpu" in container("triton", "gpu")["args"]
    assert container("triton", "gpu")["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "triton" not in pods("remote-triton")
    for name in ("bridge", "challenger", "display"):
        prefix = f"ICESTREAM_{'DISPLAY' if name == 'display' else 'BRIDGE'}_TRITON"
        given = environment(name, "remote-triton")
        assert given[f"{prefix}_URL"] == "dns:///triton.example.org:443"
        assert given[f"{prefix}_TLS"] == "true"
        assert given[f"{prefix}_TOKEN_FILE"] == "/triton-token/token"
    assert environment("emitter", "replay")["ICESTREAM_EMITTER_SOURCE"] == "kaggle:/kaggle"
    assert environment("emitter", "replay").keys() - environment("emitter").keys() == {"ICESTREAM_EMITTER_RUN_ID"}
