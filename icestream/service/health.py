"""Exit 0 if the main loop of the process on PORT made progress in the last seconds.

    python -m icestream.service.health PORT

PORT is that of its /metrics. Otherwise exit 1 with a sentence. For health checks of containers; needs nothing but Python.
"""

import re
import sys
import time
import urllib.request
from http.client import HTTPException

FRESH_S = 15.0  # every main loop beats within some seconds, whatever it waits for


def main() -> None:
    if len(sys.argv) != 2 or not sys.argv[1].isdigit():
        sys.exit("usage: python -m icestream.service.health PORT")
    try:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # bypass HTTP proxies
        with direct.open(f"http://127.0.0.1:{sys.argv[1]}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    except (OSError, HTTPException) as error:
        sys.exit(f"/metrics does not answer: {error}")
    beat = re.search(r"^icestream_\w+_heartbeat_timestamp_seconds (\S+)$", text, re.MULTILINE)
    age_s = time.time() - float(beat[1]) if beat else float("inf")
    if age_s > FRESH_S:
        sys.exit(f"the main loop has made no progress for {age_s:.0f} s")


if __name__ == "__main__":
    main()
