"""compose.yaml: the same programs and settings as `icestream up`, and nothing open that need not be."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bridge.settings import BridgeSettings
from deployer.settings import DeployerSettings
from display.settings import DisplaySettings
from emitter.settings import EmitterSettings
from icestream.streams.users import acl_file, user_names
from launcher.plan import Options, Plan
from launcher.ports import DEFAULT_PORTS
from launcher.supervisor import Service
from recorder.settings import RecorderSettings
from tests.conftest import composer
from tests.waiting import ROOT

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
GPU = yaml.safe_load((ROOT / "compose.gpu.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plan]:
    folder = tmp_path_factory.mktemp("plan")
    made = Plan(
        Options(
            events=None, rate="100", source="simulate", seed=42, bridges=1, state_dir=folder,
            report=folder / "report.json", model_repository=ROOT / "model_repository", ports={},
        )
    )  # fmt: skip
    yield made
    made.close()


def flags(command: Any) -> dict[str, str]:
    """The options of a command line, whether written as `--a b` or as `--a=b`."""
    found: dict[str, str] = {}
    name = ""
    for word in map(str, command):
        if word.startswith("--"):
            name, _, value = word.partition("=")
            found[name] = value
        elif name:
            found[name] = word
    return found


def part(plan: Plan, name: str) -> Service:
    made: Service = getattr(plan, f"{name}_service")()
    return made


@pytest.mark.parametrize(
    ("name", "where_it_lives"),
    [
        # Addresses, folders and ports differ between a machine and a container; so do password and memory limit, which a
        # machine's own Redis has not.
        ("redis", {"--bind", "--port", "--dir", "--daemonize", "--maxmemory", "--maxmemory-policy", "--aclfile"}),
        (
            "triton",
            {
                "--model-repository", "--backend-directory", "--backend-config", "--http-address", "--http-port", "--allow-http",
                "--grpc-address", "--grpc-port", "--metrics-address", "--metrics-port", "--load-model",
                "--grpc-restricted-protocol", "--http-restricted-api",
            },
        ),
        ("mlflow", {"--host", "--port", "--backend-store-uri", "--artifacts-destination", "--allowed-hosts"}),
    ],
)  # fmt: skip
def test_servers_are_started_as_icestream_up_starts_them(plan: Plan, name: str, where_it_lives: set[str]) -> None:
    here, there = flags(part(plan, name).command), flags(SERVICES[name]["command"])
    assert {flag: value for flag, value in here.items() if flag not in where_it_lives} == {
        flag: value for flag, value in there.items() if flag not in where_it_lives
    }
    settings = {key: value for key, value in part(plan, name).environment.items() if key.startswith("MLFLOW")}
    assert settings.items() <= SERVICES[name].get("environment", {}).items()


@pytest.mark.parametrize(
    ("name", "settings", "here_only", "there_only"),
    [
        ("emitter", EmitterSettings, {"RUN_ID", "METRICS_PORT"}, {"METRICS_HOST"}),
        ("bridge", BridgeSettings, {"METRICS_PORT"}, {"METRICS_HOST", "MODEL"}),
        ("challenger", BridgeSettings, set(), {"METRICS_HOST"}),
        ("deployer", DeployerSettings, {"METRICS_PORT"}, {"METRICS_HOST"}),
        ("recorder", RecorderSettings, {"METRICS_PORT", "EXPERIMENT"}, {"METRICS_HOST"}),
        (
            "display",
            DisplaySettings,
            {"METRICS_PORT", "PORT"},
            {"METRICS_HOST", "HOST", "GRAFANA_PAGE"},
        ),
    ],
)
def test_our_processes_are_told_the_same_as_by_icestream_up(
    plan: Plan, name: str, settings: Any, here_only: set[str], there_only: set[str]
) -> None:
    prefix = settings.model_config["env_prefix"]
    here = {key.removeprefix(prefix): value for key, value in part(plan, name).environment.items()}
    there = {
        key.removeprefix(prefix): re.sub(r"\$\{\w+:-(.*)\}", r"\1", value)
        for key, value in SERVICES[name]["environment"].items()
        if key.startswith(prefix)
    }
    assert here.keys() - here_only == there.keys() - there_only
    for key in here.keys() & there.keys() - {
        "REDIS_URL",
        "REDIS_PASSWORD_FILE",
        "TRITON_URL",
        "MLFLOW_URL",
        "MLFLOW_PAGE",
        "SPOOL_DIR",
        "TRITON_KEY_FILE",
        "SHIPPED",
        "REPOSITORY",
        "SESSION",
        "METRICS_PORT",
    }:
        assert here[key] == there[key], key
    if "MODEL" in there:
        assert there["MODEL"] == settings.model_fields["model"].default
    stage = DOCKERFILE.split(f"FROM runtime AS {SERVICES[name]['build']['target']}\n")[1].split("FROM")[0]
    assert re.search(r"CMD (.*)", stage)[1] == str(part(plan, name).command).replace(  # type: ignore[index]
        repr(part(plan, name).command[0]), '"python"'
    ).replace("'", '"')
    assert SERVICES[name]["healthcheck"]["test"][4] == str(DEFAULT_PORTS[f"{name}_metrics"])


def test_containers_are_given_time_to_drain(plan: Plan) -> None:
    for name in ("emitter", "bridge", "challenger", "deployer", "recorder", "display"):
        assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) >= part(plan, name).grace_s


def test_every_image_is_an_exact_version() -> None:
    images = [service["image"] for service in SERVICES.values() if "build" not in service]
    images += [name for name in re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) if ":" in name]
    for image in images:
        assert re.search(r":v?\d+\.\d+(\.\d+)?(-[\w.-]+)?$", image), image
    client = re.search(r"^tritonclient==(\d+\.\d+)", (ROOT / "locks" / "bridge.lock").read_text(), re.MULTILINE)
    assert client is not None
    assert SERVICES["triton"]["image"] == "nvcr.io/nvidia/tritonserver:26.09-py3"
    assert client[1] == "2.73"  # of that container: change both
    for image in ("bridge", "deployer", "recorder", "emitter", "display"):
        lock = (ROOT / "locks" / f"{image}.lock").read_text()
        assert "torch" not in lock
        assert f"mlflow-skinny=={SERVICES['mlflow']['image'].split(':v')[1]} " in lock or image not in (
            "recorder",
            "deployer",
        )


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_watched_limited_and_has_no_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    if name != "prepare":
        assert service["restart"] in ("unless-stopped", "on-failure")
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert service["cap_drop"] == ["ALL"]
    assert service.get("cap_add", []) == (["CHOWN"] if name == "prepare" else [])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert all("size=" in folder for folder in service["tmpfs"])
    assert service["logging"]["options"]["max-size"]
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:")
    if name in ("redis", "emitter", "bridge", "challenger", "deployer", "recorder", "redis-exporter", "alertmanager"):
        assert "ports" not in service
    for needed in service.get("depends_on", {}).values():
        assert needed["condition"] in ("service_healthy", "service_completed_successfully")


def test_the_gpu_overlay_changes_triton_and_nothing_else() -> None:
    assert set(GPU["services"]) == {"prepare", "triton"}
    assert GPU["services"]["triton"]["command"] == [*SERVICES["triton"]["command"], "--model-config-name=gpu"]
    for config in (ROOT / "model_repository").glob("*/config.pbtxt"):
        assert (config.parent / "configs" / "gpu.pbtxt").exists()


def test_the_overlay_for_traces_adds_where_they_go_and_nothing_else() -> None:
    overlay = yaml.safe_load((ROOT / "compose.trace.yaml").read_text())["services"]
    jaeger = overlay.pop("jaeger")
    assert (jaeger["cap_drop"], jaeger["read_only"]) == (["ALL"], True)
    assert re.search(r":\d+\.\d+\.\d+$", jaeger["image"])
    triton = overlay.pop("triton")
    assert triton["command"][: len(SERVICES["triton"]["command"])] == SERVICES["triton"]["command"]
    assert all(flag.startswith("--trace-config=") for flag in triton["command"][len(SERVICES["triton"]["command"]) :])
    for name, service in overlay.items():
        assert service.keys() == {"environment"}
        asked = set(re.findall(r"//(\w+):|^(\w+):\d", " ".join(map(str, SERVICES[name]["environment"].values()))))
        assert {one or other for one, other in asked} <= set(service["environment"]["NO_PROXY"].split(","))


def test_nothing_that_the_dockerfile_copies_is_ignored() -> None:
    allowed = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    copied = re.findall(r"^COPY (?!--from)(?:--chown=\S+ )?(\S+)", DOCKERFILE, re.MULTILINE)
    assert {name for name in copied if "/" not in name} == {name for name in allowed if "/" not in name}


def test_what_can_be_set_is_in_env_example_with_its_default() -> None:
    used = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", (ROOT / "compose.yaml").read_text()))
    example = dict(re.findall(r"^(\w+)=(\S+)", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert example == used


def test_no_secret_is_in_the_repository() -> None:
    for line in (ROOT / "compose.yaml").read_text().splitlines():
        assert not re.search(r"PASSWORD(?!__FILE|_FILE)", line), line
    assert ".env\n" in (ROOT / ".gitignore").read_text()


def test_no_container_asks_another_through_a_proxy() -> None:
    for name, service in SERVICES.items():
        if service.get("network_mode") != "none":
            for variable in ("NO_PROXY", "no_proxy"):
                direct = set(service["environment"][variable].split(","))
                aliases = {"replay", "prepare"}  # asked for as the emitter; never asked
                assert direct == {"localhost", "127.0.0.1", *(SERVICES.keys() - aliases)}, name


def test_folders_are_labelled_for_selinux() -> None:
    mounts = [volume for service in SERVICES.values() for volume in service.get("volumes", [])]
    bound = [volume for volume in mounts if volume.startswith((".", "/", "$"))]
    assert len(bound) > 5
    assert all(volume.endswith(":ro,z") for volume in bound)


def test_files_that_are_mounted_are_there() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (ROOT / source).exists(), source
            elif not source.startswith("$"):
                assert source in COMPOSE["volumes"], source


@pytest.mark.parametrize("zeros", [0, 1, 4096, 100_001])
def test_zeros_at_the_end_of_the_append_only_file_are_cut_in_containers_too(tmp_path: Path, zeros: int) -> None:
    file = tmp_path / "appendonlydir" / "a.1.incr.aof"
    file.parent.mkdir()
    written = b"*1\r\n$4\r\n\0\0\0\0\r\n"
    file.write_bytes(written + bytes(zeros))
    started = ["sh", ROOT / "bin" / "start-redis", tmp_path, "echo", "started"]
    said = subprocess.run(started, check=True, capture_output=True, text=True).stdout
    assert said.endswith("started\n")
    assert file.read_bytes() == written
    copies = [path.read_bytes() for path in file.parent.iterdir() if path != file]
    assert copies == ([written + bytes(zeros)] if zeros else [])


def test_passwords_are_made_once_and_only_their_owner_may_read_them(tmp_path: Path) -> None:
    script = (ROOT / "bin" / "prepare").read_text()
    mounts = [volume.split(":") for volume in SERVICES["prepare"]["volumes"]]
    for _, path, *_ in mounts:
        if path.startswith("/auth/"):
            (tmp_path / path[1:]).mkdir(parents=True)
    script = re.sub(r"(?<=[ >\"])/(?!dev/)(?=\w)", f"{tmp_path}/", script)
    script = script.replace("</tmp/", f"<{tmp_path}/tmp/")
    (tmp_path / "tmp").mkdir()
    for source, path, *_ in mounts:
        if source.startswith("./"):
            shutil.copy(ROOT / source, tmp_path / path[1:])
        elif not path.startswith("/auth/"):
            (tmp_path / path[1:]).mkdir()
    shell = ["sh", "-c", script]
    if os.getuid() == 0:  # the container's root may change owners, and nothing else that root may
        assert SERVICES["prepare"]["cap_add"] == ["CHOWN"]
        shell = ["setpriv", "--bounding-set=-all,+chown", "--inh-caps=-all", *shell]
    else:
        shell[2] = "chown() { :; }\n" + script
    for _ in range(2):
        subprocess.run(shell, check=True, capture_output=True)
        made = {path: path.read_text() for path in tmp_path.glob("auth/*/*")}
        names = {path.name for path in made}
        assert names == {"password", "hash", "users.acl", "exporter.json", "admin_password", "key"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in made if path.name != "hash")
    passwords = {path.parent.name: text.strip() for path, text in made.items() if path.name == "password"}
    passwords["admin"] = passwords.pop("redis")
    assert all(len(one) >= 32 for one in passwords.values())
    assert len(set(passwords.values())) == len(passwords)
    assert passwords.keys() == set(user_names()) - {"keda"}
    assert (tmp_path / "auth" / "redis" / "users.acl").read_text() == acl_file(passwords)
    assert passwords["exporter"] in (tmp_path / "auth" / "exporter" / "exporter.json").read_text()

    for path in tmp_path.glob("auth/*/*"):  # as an earlier version left it
        if path.name != "key" and path.parent.name not in ("redis", "grafana"):
            path.unlink()
    (tmp_path / "auth" / "redis" / "hash").unlink()
    subprocess.run(shell, check=True, capture_output=True)
    again = {path.parent.name: path.read_text().strip() for path in tmp_path.glob("auth/*/password")}
    again["admin"] = again.pop("redis")
    assert (tmp_path / "auth" / "redis" / "users.acl").read_text() == acl_file(again)
    kept = [path for path in made if path.name in ("key", "admin_password")]
    assert {path: path.read_text() for path in kept} == {path: made[path] for path in kept}


def test_each_process_reads_its_own_password_alone() -> None:
    for name, service in SERVICES.items():
        mounted = {volume.split(":")[0] for volume in service.get("volumes", []) if "-auth:" in volume}
        user = {"redis-exporter": "exporter", "replay": "emitter"}.get(name, name)
        if name != "prepare":
            assert mounted <= {f"{user}-auth"}
        if url := next(
            (value for key, value in service.get("environment", {}).items() if key.endswith("REDIS_URL")), ""
        ):
            assert url == f"redis://{user}@redis:6379"
            assert mounted == {f"{user}-auth"}


def test_prometheus_is_read_by_no_other_origin() -> None:
    [allowed] = [word for word in SERVICES["prometheus"]["command"] if word.startswith("--web.cors.origin=")]
    assert not re.fullmatch(allowed.partition("=")[2], "https://evil.example")


def test_networks_keep_apart_what_has_nothing_to_say_to_each_other() -> None:
    networks = dict(COMPOSE["networks"])
    assert [name for name, service in SERVICES.items() if "out" in service.get("networks", [])] == ["alertmanager"]
    networks.pop("out")
    for name, service in SERVICES.items():  # one of its own: the name of another would lead to an address there, too
        if "ports" in service:
            assert networks.pop(f"front-{name}") == {
                "driver_opts": {"com.docker.network.bridge.enable_ip_masquerade": "false"}
            }
            assert f"front-{name}" in service["networks"]
    assert all(network == {"internal": True} for network in networks.values())
    on = {name: set(service.get("networks", [])) for name, service in SERVICES.items()}
    assert on.pop("prepare") == set()
    for name in (network for network in COMPOSE["networks"] if network.startswith("front-")):
        assert [one for one in on if name in on[one]] == [name.removeprefix("front-")]
    assert {name for name in on if "stream" in on[name]} == {
        "redis", "emitter", "replay", "bridge", "challenger", "deployer", "recorder", "display", "redis-exporter", "prometheus",
    }  # fmt: skip
    assert {name for name in on if "serving" in on[name]} == {
        "triton",
        "bridge",
        "challenger",
        "deployer",
        "display",
        "prometheus",
    }
    assert {name for name in on if "recording" in on[name]} == {"mlflow", "deployer", "recorder"}
    assert {name for name in on if "watching" in on[name]} == {"prometheus", "alertmanager", "alert-log", "grafana"}


@pytest.mark.parametrize(
    "files", [["compose.yaml"], *(["compose.yaml", f"compose.{one}.yaml"] for one in ("gpu", "trace", "door"))], ids=str
)
def test_compose_understands_the_files(files: list[str]) -> None:
    compose = composer()
    if compose is None:
        pytest.skip("there is neither `docker compose` nor `docker-compose` on this machine")
    chosen = [word for file in files for word in ("-f", file)]
    done = subprocess.run([*compose, *chosen, "config", "--quiet"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
