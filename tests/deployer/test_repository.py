"""The folders of versions."""

from pathlib import Path

from deployer.repository import Repository
from tests.deployer.conftest import SHIPPED


def test_only_what_is_half_written_is_removed_at_the_start(tmp_path: Path) -> None:
    for name in (".git", ".cache", "another-model", ".icemix-v2-0123abcd"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("mine")
    Repository(tmp_path, SHIPPED)
    assert {path.name for path in tmp_path.iterdir()} == {".git", ".cache", "another-model"}
