"""Two Tritons of one repository: a model answers when both have proved it."""

from pathlib import Path

from icestream.registry import CHAMPION
from icestream.streams.serving import read_report
from tests.deployer.conftest import KEY, System, plain
from tests.deployer.test_deployer import asks, begin, damage
from tests.models import make_picky
from tests.servers import TritonProcess
from tests.waiting import wait_until
from tritonserver.server import ModelControlOptions

# Loads in one Triton as long as there is a file, which names its gRPC port.
SLOW = """
    def initialize(self, arguments):
        gate = pathlib.Path(GATE)
        while gate.exists() and f"--grpc-port={gate.read_text()}" in pathlib.Path(f"/proc/{os.getppid()}/cmdline").read_text():
            time.sleep(0.1)

    def execute"""


def test_the_switch_waits_for_the_slower_one(system: System, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    control = ModelControlOptions(first="icemix", repository=system.deployed, key=KEY)
    slow = TritonProcess(tmp_path / "other", control)
    gate = tmp_path / "gate"
    gate.write_text(str(slow.grpc))

    def picky_and_slow(folder: Path) -> None:
        make_picky(folder)
        program = folder / "1" / "model.py"
        program.write_text(program.read_text().replace("\n    def execute", SLOW.replace("GATE", repr(str(gate)))))

    try:
        urls = f"ipv4:{system.triton.url},{slow.url}"
        begin(system, triton_url=urls)
        bridge = system.bridge(triton_url=urls)
        version = system.register(picky_and_slow)
        system.registry.set_alias("champion", version)

        def loaded_by() -> list[str]:
            report = read_report(system.redis).loaded
            return [
                address.removeprefix("ipv4:")
                for address, models in report.items()
                if any("-v2-" in model for model in models)
            ]

        wait_until(lambda: loaded_by() == [system.triton.url], "one has loaded it", 60)
        for _ in range(5):
            system.send(20)
            system.all_answered()
        assert set(system.answered_by()) == {"icemix"}
        assert loaded_by() == [system.triton.url]
        assert system.serves("icemix")()
        gate.unlink()
        wait_until(system.serves("icemix-v2"), "both have loaded it", 60)
        wait_until(lambda: asks(system, "icemix-v2"), "it answers", 30)
        wait_until(lambda: bridge.metric("icestream_bridge_tritons", state="proved") == 2, "of both", 60)
        slow.kill()
        system.send(50)
        system.all_answered()
        assert len(system.answered_by()) == system.emitted
    finally:
        slow.close()


def test_one_whose_name_has_no_address_is_away_and_holds_nobody_up(system: System) -> None:
    """Such as a container that was stopped. What is served is loaded again by the others, and may be changed."""
    begin(system, triton_url=f"{system.triton.url},{'unknown' * 10}:8001")
    system.bridge()
    system.models.promote(system.register(), "a test")
    wait_until(lambda: asks(system, "icemix-v2"), "it answers", 60)
    system.triton.kill()
    system.triton.start()
    wait_until(lambda: asks(system, "icemix-v2"), "it was loaded again", 60)


def test_each_may_have_a_deployer_and_a_repository_of_its_own(system: System, tmp_path: Path) -> None:
    """As in pods: no disk is shared. One that starts later loads what is served."""
    (tmp_path / "other" / "deployed").mkdir(parents=True)
    control = ModelControlOptions(first="icemix", repository=tmp_path / "other" / "deployed", key=KEY)
    first = begin(system, triton_own=system.triton.url)
    system.models.promote(system.register(), "a test")
    other = TritonProcess(tmp_path / "other", control)
    try:
        urls = f"ipv4:{system.triton.url},{other.url}"
        assert first.stop() == 0
        system.registry.set_alias(CHAMPION, system.register(damage))  # which changes nothing, for the new one as well
        for own, repository in ((system.triton.url, system.deployed), (other.url, control.repository)):
            system.deployer(triton_url=urls, triton_own=own, repository=repository)
        bridge = system.bridge(triton_url=urls)
        wait_until(lambda: bridge.metric("icestream_bridge_tritons", state="proved") == 2, "both serve version 2", 60)
        system.models.promote(system.register(), "a test")
        system.models.rollback()
        wait_until(lambda: asks(system, "icemix-v2"), "version 2 answers again", 30)
        for folder in (system.deployed, control.repository):
            wait_until(
                lambda folder=folder: {plain(path.name) for path in folder.iterdir()} == {"icemix-v2", "icemix-v4"},
                "both have both",
                30,
            )  # type: ignore[misc]
    finally:
        other.close()
