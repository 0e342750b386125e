from pathlib import Path

import numpy as np
import pytest

from icestream.detector import DetectorFileError, load_detector, nominal_icecube86


def test_the_nominal_detector_is_icecube() -> None:
    detector = nominal_icecube86()
    position = detector.position_m.reshape(86, 60, 3)
    assert position[35, 0] == pytest.approx([45.9, -33.7, 501.6])  # string 36, top DOM
    assert (np.diff(position[:, :, 2], axis=1) < 0).all()  # DOM 1 is on top
    assert position[:78, -1, 2] == pytest.approx(-502.6, abs=0.1)
    # Published corners of the array, good to the 8 m of the nominal figures: strings 1, 6, 50, 75, 78.
    for string, x, y in [
        (1, -256.1, -521.1),
        (6, 361.0, -422.8),
        (50, 576.4, 170.9),
        (75, -347.9, 451.5),
        (78, 22.1, 509.5),
    ]:
        assert np.hypot(*(position[string - 1, 0, :2] - [x, y])) < 25, string
    neighbours = np.sort(np.linalg.norm(position[:78, None, 0, :2] - position[None, :78, 0, :2], axis=-1), axis=1)[:, 1]
    assert 90 < neighbours.min() <= neighbours.max() < 135


def test_dust_makes_the_ice_dark() -> None:
    z, scattering, absorption = nominal_icecube86().ice.T
    dust = (z > -110) & (z < -50)
    assert scattering[dust].max() < 0.5 * np.median(scattering)
    assert absorption[dust].max() < 0.5 * np.median(absorption)


def write_geometry(path: Path, rows: int = 5160, header: str = "sensor_id,x,y,z") -> Path:
    path.write_text(
        header + "\n" + "\n".join(f"{i},{i * 0.1},{-i * 0.1},{500 - i * 0.2}" for i in reversed(range(rows))) + "\n"
    )
    return path


def test_files_replace_the_nominal_figures(tmp_path: Path) -> None:
    ice = tmp_path / "ice.txt"
    ice.write_text("depth scattering_len absorption_len\n1400 20 100\n1950 25 110\n2500 30 120\n")
    detector = load_detector(write_geometry(tmp_path / "geometry.csv"), ice, own_geometry=True)
    assert detector.position_m[10] == pytest.approx([1.0, -1.0, 498.0])
    np.testing.assert_allclose(detector.ice, [[-550, 30, 120], [0, 25, 110], [550, 20, 100]])
    assert detector.name == "geometry.csv + ice.txt"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("sensor_id,x,y,z\n0,1,2\n", "expected 4 finite columns"),
        ("sensor_id,x,y,z\n0,1,2,3\n", "each sensor_id from 0 to 5159 once"),
        ("sensor_id,x,y,z\n0,a,2,3\n", "cannot be read"),
    ],
)
def test_a_geometry_that_is_none_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "geometry.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DetectorFileError, match=message):
        load_detector(geometry=path)


def test_ice_that_is_out_of_order_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ice.txt"
    path.write_text("depth a b\n1500 20 100\n1400 20 100\n")
    with pytest.raises(DetectorFileError, match="depths must rise"):
        load_detector(ice=path)


def test_positions_that_are_not_icecubes_are_refused_unless_wanted(tmp_path: Path) -> None:
    position = nominal_icecube86().position_m
    moved = position + np.random.default_rng(1).normal(
        0, 5, position.shape
    )  # as the real ones differ from the nominal ones
    others = {
        "km": position / 1000, "divided by 500": position / 500, "swapped": position[:, [1, 0, 2]], "z down": position * [1, 1, -1],
        "depth": position * [1, 1, -1] + [0, 0, 1950], "mirrored": position * [-1, 1, 1],
    }  # fmt: skip

    def written(positions: np.ndarray) -> Path:
        rows = np.column_stack([np.arange(len(positions)), positions])
        np.savetxt(tmp_path / "geometry.csv", rows, "%.17g", ",", header="sensor_id,x,y,z", comments="")
        return tmp_path / "geometry.csv"

    np.testing.assert_allclose(load_detector(written(moved)).position_m, moved)
    for name, other in others.items():
        with pytest.raises(DetectorFileError, match="from those of IceCube-86, at most 50 m are expected"):
            load_detector(written(other))
        assert load_detector(written(other), own_geometry=True).name == "geometry.csv", name
