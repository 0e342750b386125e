"""Words whose disk is full, or that go nowhere."""

import os
import shlex
import subprocess
import sys

SAY = "from icestream.service.logs import configure_logs; log = configure_logs('x'); [log.info('y' * 99) for _ in range(999)]; print('done')"


def test_a_full_disk_ends_no_process_through_what_it_says() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", SAY], stdout=subprocess.PIPE, stderr=full, text=True)
    assert (done.returncode, done.stdout) == (0, "done\n")


def test_a_process_may_be_started_with_its_output_closed() -> None:
    done = subprocess.run(f"{shlex.join([sys.executable, '-c', SAY])} 2>&-", shell=True, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "done\n")


def test_what_an_encoding_lacks_ends_no_process() -> None:
    say = "from icestream.service.output import Output; import sys; Output(sys.stdout).write('κ ▲ done')"
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([sys.executable, "-c", say], capture_output=True, env=environment)
    assert (done.returncode, done.stdout) == (0, b"? ? done")
