"""An ensemble is a version like any other: its members come and go with it."""

import re
import shutil
from pathlib import Path

import pytest
from google.protobuf import text_format

from deployer.repository import Repository
from icestream.inference.model_config import parse_config
from icestream.inference.model_files import digest, members
from icestream.registry import RegistryError
from icestream.tensors import INPUTS, OUTPUTS
from tests.deployer.conftest import SHIPPED, System, plain
from tests.deployer.test_deployer import asks, begin
from tests.waiting import wait_until


def as_ensemble(folder: Path) -> None:
    """The model becomes an ensemble of one member, which lies beside it."""
    member = folder.parent / "member"
    shutil.copytree(folder, member)
    config = parse_config((folder / "config.pbtxt").read_text())
    for field in ("backend", "instance_group", "dynamic_batching", "optimization"):
        config.ClearField(field)
    config.platform = "ensemble"
    step = config.ensemble_scheduling.step.add(model_name="member", model_version=-1)
    for names, mapped in ((INPUTS, step.input_map), (OUTPUTS, step.output_map)):
        mapped.update({name: name for name in names})
    for path in (member / "config.pbtxt", *member.glob("configs/*.pbtxt")):
        path.write_text(re.sub(r'^name: "[^"]*"', 'name: "member"', path.read_text()))
    shutil.rmtree(folder)
    (folder / "1").mkdir(parents=True)
    (folder / "1" / ".keep").touch()
    (folder / "config.pbtxt").write_text(text_format.MessageToString(config, as_utf8=True))


def test_it_is_promoted_and_rolled_back_with_its_members(system: System) -> None:
    begin(system)
    system.bridge()
    system.models.promote(system.register(as_ensemble), "a test")
    assert system.serves("icemix-v2")()
    wait_until(lambda: asks(system, "icemix-v2"), "the ensemble answers", 60)
    [ensemble, member] = sorted(path.name for path in system.deployed.iterdir())
    assert member == f"{ensemble}+member"
    system.triton.kill()
    system.triton.start()
    wait_until(lambda: asks(system, "icemix-v2"), "a Triton that was restarted has the members, too", 60)
    system.models.promote(system.register(), "a test")
    system.models.rollback()
    system.models.promote(system.register(), "a test")  # the ones before are 2 and 1
    system.models.promote("1", "a test")
    wait_until(
        lambda: {plain(path.name) for path in system.deployed.iterdir()} == {"icemix-v4"}, "nothing of it is left", 60
    )
    assert set(system.answered_by()) <= {"icemix", "icemix-v2", "icemix-v3", "icemix-v4"}


def test_its_digest_is_of_its_members_as_well_and_one_that_lacks_a_member_is_refused(system: System) -> None:
    system.register(as_ensemble)
    [version] = system.registry.versions()
    registered = system.folder / "export-1" / "icemix"
    assert [member.name for member in members(registered)] == ["member"]
    assert version.digest == digest(registered)
    system.registry.fetch(version, system.folder / "fetched")
    assert digest(system.folder / "fetched") == version.digest
    (registered.parent / "member" / "1" / "model.onnx").write_bytes(b"another one")
    assert version.digest != digest(registered)
    shutil.rmtree(registered.parent / "member")
    with pytest.raises(RegistryError, match="the ensemble asks member, which does not lie beside it"):
        system.registry.register(registered, {})


def test_members_whose_ensemble_was_never_complete_are_removed_at_the_start(tmp_path: Path) -> None:
    for name in ("icemix-v2-aa+member", "icemix-v3-bb+member", "icemix-v3-bb", "lost+found"):
        (tmp_path / name).mkdir()
    repository = Repository(tmp_path, SHIPPED)
    assert {path.name for path in tmp_path.iterdir()} == {"icemix-v3-bb", "icemix-v3-bb+member", "lost+found"}
    assert repository.names() == {"icemix-v3-bb"}
    (tmp_path / "lost+found").rmdir()
    repository.remove("icemix-v3-bb")
    assert list(tmp_path.iterdir()) == []
