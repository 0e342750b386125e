"""Writes the golden bytes beside this file with an independent MessagePack writer, from docs/wire.md alone.

    python tests/data/wire/write.py

They are committed and never change: a change of the layout is a new version, and gets new files.
"""

from pathlib import Path
from struct import pack

import msgpack

FOLDER = Path(__file__).parent
ROW = "<2q3ffff3f2i2q"
TIMES = (1_700_000_000_000_000_000, 1_700_000_000_001_000_000)  # emitted, read
GOLDEN = {
    "event.v1": [
        1, 7, -42, 1_700_000_000_123_456_789,
        pack("<3h", 0, 258, 5159), pack("<3f", 9880.5, 9950.0, 12000.25), pack("<3f", 1.25, 0.75, 3.0), pack("3B", 0, 1, 0),
    ],
    "truth.v1": [1, 7, -42, 3.5, 1.25, "through-going"],
    "result.v1": [
        1, 7, -42, [0.0, 0.6, 0.8], 12.5, [0.0, 0.0, 1.0], 40, 32, "icemix", "1",
        1_700_000_000_000_000_000, 1_700_000_000_001_000_000, 1_700_000_000_002_000_000,
        1_700_000_000_003_000_000, 1_700_000_000_004_000_000,
    ],
    "result.v3": [
        3, 7, -42, [0.0, 0.6, 0.8], 12.5, 14.5, 33.25, [0.0, 0.0, 1.0], 40, 32, "icemix", "1", "small.safetensors sha256:0",
        1_700_000_000_000_000_000, 1_700_000_000_001_000_000, 1_700_000_000_002_000_000,
        1_700_000_000_003_000_000, 1_700_000_000_004_000_000,
    ],
    "result.v2": [
        2, 7, -42, [0.0, 0.6, 0.8], 12.5, 14.5, 33.25, [0.0, 0.0, 1.0], 40, 32, "icemix", "1",
        1_700_000_000_000_000_000, 1_700_000_000_001_000_000, 1_700_000_000_002_000_000,
        1_700_000_000_003_000_000, 1_700_000_000_004_000_000,
    ],
    "truth.v2": [
        2, ["through-going", ""],
        pack("<2q2dB", 7, -42, 3.5, 1.25, 0) + pack("<2q2dB", 7, -41, 0.5, 2.5, 1),
    ],
    "result.v4": [
        4, "icemix", "1", "small.safetensors sha256:0",
        1_700_000_000_002_000_000, 1_700_000_000_003_000_000, 1_700_000_000_004_000_000,
        pack(ROW, 7, -42, 0.0, 0.6, 0.8, 12.5, 14.5, 33.25, 0.0, 0.0, 1.0, 40, 32, *TIMES)
        + pack(ROW, 7, -41, 0.0, 0.6, 0.8, 0.25, 14.5, 33.25, 0.0, 0.0, 0.0, 40, 32, *TIMES),
    ],
}  # fmt: skip

if __name__ == "__main__":
    for name, fields in GOLDEN.items():
        (FOLDER / f"{name}.msgpack").write_bytes(msgpack.packb(fields))
