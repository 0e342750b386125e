"""What the documents say is so."""

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from bridge.metrics import BridgeMetrics
from bridge.settings import BridgeSettings
from deployer.metrics import DeployerMetrics
from deployer.settings import DeployerSettings
from display.metrics import DisplayMetrics
from display.settings import DisplaySettings
from emitter.metrics import EmitterMetrics
from emitter.settings import EmitterSettings
from icestream.event import REASONS
from icestream.results.markdown import wrap
from launcher.ports import DEFAULT_PORTS
from recorder.metrics import RecorderMetrics
from recorder.settings import RecorderSettings
from tests.events import HOSTILE
from tests.waiting import ROOT

OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
REFERENCE = (ROOT / "docs" / "reference.md").read_text()
README = (ROOT / "README.md").read_text()


def test_every_setting_is_documented_and_every_documented_one_exists() -> None:
    real = {
        settings.model_config["env_prefix"] + name.upper(): field.description
        for settings in (EmitterSettings, BridgeSettings, DeployerSettings, RecorderSettings, DisplaySettings)
        for name, field in settings.model_fields.items()
    }
    rows = re.findall(r"^\| `(ICESTREAM_\w+)` \| .*? \| (.*) \|$", REFERENCE, re.MULTILINE)
    assert dict(rows) == real


def test_every_metric_is_documented_and_every_documented_one_exists() -> None:
    real = set()
    for metrics in (EmitterMetrics, BridgeMetrics, DeployerMetrics, RecorderMetrics, DisplayMetrics):
        registry = CollectorRegistry()
        metrics(registry)
        suffix = {"counter": "_total", "info": "_info"}
        real |= {
            family.name + suffix.get(family.type, "")
            for family in registry.collect()
            if family.name.startswith("icestream")
        }
    assert set(re.findall(r"^\| `(icestream_[a-z_]+)`", REFERENCE, re.MULTILINE)) == real
    assert set(re.findall(r"`(icestream_[a-z_]+)[`{]", OPERATIONS + REFERENCE)) <= real


def test_every_reason_of_a_rejection_is_documented() -> None:
    wire = (ROOT / "docs" / "wire.md").read_text()
    assert {reason for _, reason in HOSTILE.values()} <= set(REASONS)
    for reason in REASONS:
        assert f"`{reason}`" in wire


@pytest.mark.parametrize(
    "page", [path.relative_to(ROOT) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]], ids=str
)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
        assert target.startswith("https://") or (ROOT / page).parent.joinpath(target).exists(), target


@pytest.mark.parametrize(
    "page", [path.relative_to(ROOT) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]], ids=str
)
def test_prose_is_wrapped(page: Path) -> None:
    """At 120 columns, as `icestream.results.markdown.wrap` does it."""
    text = (ROOT / page).read_text()
    assert wrap(text) == text


def test_the_readme_is_short() -> None:
    assert len(README.split()) < 700


def test_the_readme_names_commands_and_ports_that_exist() -> None:
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in re.findall(r"^make ([a-z-]+)", README, re.MULTILINE):
        assert command in targets
    for script in re.findall(r"export/\w+\.py", README):
        assert (ROOT / script).exists()
    for module in re.findall(r"-m (bench\.\w+)", README):
        assert (ROOT / (module.replace(".", "/") + ".py")).exists()
    for name, port in DEFAULT_PORTS.items():
        assert f":{port}" in README, name


def test_every_test_that_a_document_names_exists() -> None:
    text = "\n".join(path.read_text() for path in ROOT.glob("tests/**/test_*.py"))
    there = set(re.findall(r"^(?:async )?def (test_\w+)", text, re.MULTILINE))
    for page in ROOT.glob("docs/**/*.md"):
        assert set(re.findall(r"`(test_\w+)`", page.read_text())) <= there, page


def test_every_file_the_architecture_names_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    for path in re.findall(
        r"`((?:icestream|emitter|bridge|deployer|recorder|display|tritonserver|launcher|export|dashboards)/[\w/.]*)`",
        text,
    ):
        assert (ROOT / path).exists(), path
