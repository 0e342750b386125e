"""The detector: where each DOM hangs, and how clear the ice around it is.

Without files it is IceCube-86 from its published nominal figures (positions good to 8 m rms; Aartsen et al., JINST 12
(2017) P03012) and a rounded ice table. With the competition's `sensor_geometry.csv` and `ice_transparency.txt` it is exact.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

DOM_COUNT = 5160
FARTHEST_RMS_M = 50  # the nominal positions are good to 8 m
STRINGS = 86
DOMS_PER_STRING = 60
FIRST_DEEPCORE_STRING = 78  # counted from 0, as sensor_id // 60
FIRST_DEEP_DOM = 10  # DeepCore's dense, high-efficiency part begins at its 11th DOM

# (row j of the lattice, first i, last i): strings 1–78 are numbered row by row from the south.
_LATTICE_ROWS = [
    (-4, -1, 4),
    (-3, -2, 4),
    (-2, -3, 4),
    (-1, -4, 4),
    (0, -5, 4),
    (1, -5, 4),
    (2, -5, 3),
    (3, -5, 2),
    (4, -5, 1),
    (5, -5, -2),
]
_ORIGIN_M = np.array([45.9, -33.7])  # string 36
_SPACING_M = 125.0
_OFF_LATTICE_M = {
    37: (25, -17), 47: (-19, 23), 19: (7, 18), 49: (11, -15), 30: (5, 13), 74: (-9, 10), 39: (-4, -13), 50: (-8, 8),
    40: (5, 10), 21: (-7, -6), 48: (-7, 4), 57: (-1, -8), 31: (0, 8), 67: (4, -5),
}  # fmt: skip
_DEEPCORE_M = [
    (-15.0, -38.1),
    (26.1, -31.7),
    (-4.7, 70.4),
    (60.6, 62.0),
    (66.9, -25.6),
    (10.9, -70.6),
    (-56.0, -44.6),
    (-57.3, 41.6),
]

# z (m), scattering length (m), absorption length (m): the layers of the South Pole ice, rounded.
_ICE_LAYERS = np.array([
    (-550, 60, 180), (-500, 60, 190), (-420, 75, 230), (-330, 85, 250), (-250, 70, 210), (-180, 50, 150), (-130, 25, 80),
    (-105, 8, 28), (-75, 5, 18), (-45, 9, 32), (-20, 22, 75), (40, 32, 115), (110, 38, 140), (180, 34, 125), (250, 25, 90),
    (280, 18, 70), (310, 26, 95), (360, 28, 100), (400, 20, 75), (440, 26, 95), (500, 24, 95), (550, 24, 90),
], dtype=np.float64)  # fmt: skip
_TABLE_STEP_M = 10
_CENTRE_DEPTH_M = 1950  # the competition's table counts depth from the surface; z = 1950 − depth


class DetectorFileError(ValueError):
    """A geometry or ice file that cannot be used; the message names the file, the cause and the fix."""


@dataclass(frozen=True)
class Detector:
    """Positions of all DOMs and the ice table.

    Attributes:
        position_m: (5160, 3) x, y, z from the detector's centre, z up; row = sensor_id = 60·string + dom, both from 0.
        ice: (rows, 3) z in m (rising), scattering length in m, absorption length in m.
        name: where it comes from, for logs and checkpoints.
    """

    position_m: NDArray[np.float64]
    ice: NDArray[np.float64]
    name: str

    @property
    def high_efficiency(self) -> NDArray[np.bool_]:
        """(5160,) DOMs with the more sensitive DeepCore tubes."""
        string, dom = np.divmod(np.arange(DOM_COUNT), DOMS_PER_STRING)
        return (string >= FIRST_DEEPCORE_STRING) & (dom >= FIRST_DEEP_DOM)


def nominal_icecube86() -> Detector:
    """IceCube-86 from its nominal figures."""
    a, b = (_SPACING_M * np.array([np.cos(angle), np.sin(angle)]) for angle in np.radians([9.14, 69.14]))
    strings = [_ORIGIN_M + i * a + j * b for j, first, last in _LATTICE_ROWS for i in range(first, last + 1)]
    for number, shift in _OFF_LATTICE_M.items():
        strings[number - 1] = strings[number - 1] + np.array(shift)
    strings += [_ORIGIN_M + np.array(shift) for shift in _DEEPCORE_M]
    dom = np.arange(DOMS_PER_STRING)
    regular_z = 501.6 - 17.02 * dom
    deepcore_z = np.where(dom < FIRST_DEEP_DOM, 188.5 - 10.01 * dom, -159.0 - 7.01 * (dom - FIRST_DEEP_DOM))
    position = np.empty((STRINGS, DOMS_PER_STRING, 3))
    position[:, :, :2] = np.array(strings)[:, None, :]
    position[:, :, 2] = np.where(np.arange(STRINGS)[:, None] < FIRST_DEEPCORE_STRING, regular_z, deepcore_z)
    z = np.arange(-550.0, 551.0, _TABLE_STEP_M)  # the depths that the competition's table covers
    ice = np.stack([z, *(np.interp(z, _ICE_LAYERS[:, 0], _ICE_LAYERS[:, k]) for k in (1, 2))], axis=1)
    return Detector(position.reshape(DOM_COUNT, 3), ice, "IceCube-86 nominal")


def load_detector(geometry: Path | None = None, ice: Path | None = None, *, own_geometry: bool = False) -> Detector:
    """The nominal detector with the parts that the user has files for replaced by them.

    Args:
        geometry: the competition's `sensor_geometry.csv` (sensor_id, x, y, z in m).
        ice: the competition's `ice_transparency.txt` (depth, scattering length, absorption length in m).
        own_geometry: take positions that are not IceCube-86's.

    Raises:
        DetectorFileError: a file is missing, unreadable, or does not describe this detector.
    """
    nominal = nominal_icecube86()
    position = nominal.position_m if geometry is None else _read_geometry(geometry)
    rms_m = float(np.sqrt(np.square(position - nominal.position_m).sum(axis=1).mean()))
    if rms_m > FARTHEST_RMS_M and not own_geometry:
        raise DetectorFileError(
            f"{geometry}: its DOMs are {rms_m:.0f} m (rms) from those of IceCube-86, at most {FARTHEST_RMS_M} m are expected: x, y, z "
            "must be in m, z up, from the centre of the detector; for another detector export with --own-geometry"
        )
    table = nominal.ice if ice is None else _read_ice(ice)
    names = [path.name for path in (geometry, ice) if path is not None]
    return Detector(position, table, " + ".join(names) or nominal.name)


def _read_table(path: Path, delimiter: str | None, columns: int, layout: str) -> NDArray[np.float64]:
    try:
        table = np.loadtxt(path, delimiter=delimiter, skiprows=1, ndmin=2)
    except (OSError, ValueError, EOFError) as error:
        raise DetectorFileError(f"{path}: cannot be read ({error}); expected one header line, then {layout}") from None
    if table.shape[1] != columns or not np.isfinite(table).all():
        raise DetectorFileError(f"{path}: expected {columns} finite columns ({layout}), found {table.shape[1]}")
    return table


def _read_geometry(path: Path) -> NDArray[np.float64]:
    table = _read_table(path, ",", 4, "sensor_id,x,y,z")
    if not np.array_equal(np.sort(table[:, 0]), np.arange(DOM_COUNT)):
        raise DetectorFileError(
            f"{path}: expected each sensor_id from 0 to {DOM_COUNT - 1} once, found {len(table)} rows"
        )
    return table[np.argsort(table[:, 0]), 1:]


def _read_ice(path: Path) -> NDArray[np.float64]:
    table = _read_table(path, None, 3, "depth scattering_len absorption_len")
    table[:, 0] = _CENTRE_DEPTH_M - table[:, 0]
    table = table[::-1]
    if len(table) < 2 or (np.diff(table[:, 0]) <= 0).any() or (table[:, 1:] <= 0).any():
        raise DetectorFileError(f"{path}: depths must rise and both lengths be positive")
    return table
