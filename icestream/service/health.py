"""Exit 0 if the main loop of the process on PORT made progress in the last seconds, and URL, if given, answers 200.

    python -m icestream.service.health PORT [URL]

PORT is that of its /metrics. Otherwise exit 1 with a sentence. For health checks of containers; needs nothing but Python.
"""

import re
import sys
import time
import urllib.request
from http.client import HTTPException

FRESH_S = 15.0  # every main loop beats within some seconds, whatever it waits for


TIMEOUT_S = 5.0
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # bypass HTTP proxies


def main() -> None:
    port, *urls = sys.argv[1:] or [""]
    if not port.isdigit() or len(urls) > 1:
        sys.exit("usage: python -m icestream.service.health PORT [URL]")
    beat = re.search(
        r"^icestream_\w+_heartbeat_timestamp_seconds (\S+)$", _get(f"http://127.0.0.1:{port}/metrics"), re.M
    )
    age_s = abs(time.time() - float(beat[1])) if beat else float("inf")  # of the future: the clock was set back
    if age_s > FRESH_S:
        sys.exit(f"the main loop has made no progress for {age_s:.0f} s")
    for url in urls:
        _get(url)


def _get(url: str) -> str:
    try:
        with DIRECT.open(url, timeout=TIMEOUT_S) as answer:
            text: str = answer.read().decode()
            return text
    except (OSError, HTTPException) as error:
        sys.exit(f"{url} does not answer: {error}")


if __name__ == "__main__":
    main()
