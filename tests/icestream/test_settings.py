import subprocess
import sys

import pytest

from bridge.recorder.settings import RecorderSettings
from bridge.settings import BridgeSettings
from emitter.settings import EmitterSettings
from icestream.settings import refuse_unknown

PROGRAMS = {"emitter": EmitterSettings, "bridge": BridgeSettings, "bridge.recorder": RecorderSettings}


@pytest.mark.parametrize("settings", PROGRAMS.values())
def test_every_setting_has_a_default_and_a_description(settings: type) -> None:
    settings()
    assert all(field.description for field in settings.model_fields.values())


def test_a_misspelt_variable_is_refused_with_the_right_one() -> None:
    with pytest.raises(ValueError, match="did you mean ICESTREAM_EMITTER_RATE"):
        refuse_unknown(EmitterSettings, {"ICESTREAM_EMITTER_RAET": "5", "HOME": "/"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["emitter", "--rate", "-5"], "RATE"),
        (["emitter", "--source", "kagle:/x"], "`simulate` or `kaggle:DIR`"),
        (["emitter", "--source", "kaggle:/nowhere"], "no such folder"),
        (["emitter", "--geometry", "/nowhere.csv"], "cannot be read"),
        (["bridge", "--max-batch", "many"], "MAX_BATCH"),
        (["bridge", "--redis-url", "localhost:6379"], "REDIS_URL"),
        (["bridge", "--metrics-port", "1", "--metrics-host", "192.0.2.1"], "give another port"),
        (["bridge.recorder", "--window-s", "0"], "WINDOW_S"),
        (["bridge.recorder", "--mlflow-url", "localhost"], "begins with http://"),
        (["bridge.recorder", "--spool-dir", "/proc/spool"], "give another folder"),
    ],
)
def test_a_slip_on_the_command_line_is_one_sentence(arguments: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *arguments, "--metrics-port", "0"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
