"""Words whose disk is full."""

import subprocess
import sys

SAY = "from icestream.service.logs import configure_logs; log = configure_logs('x'); [log.info('y' * 99) for _ in range(999)]; print('done')"


def test_a_full_disk_ends_no_process_through_what_it_says() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", SAY], stdout=subprocess.PIPE, stderr=full, text=True)
    assert (done.returncode, done.stdout) == (0, "done\n")
