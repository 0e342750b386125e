"""`python -m icestream.service.health PORT`: whether the process whose /metrics is at PORT still comes round.

Exit status 0 if its heartbeat is fresh, else 1 and a sentence; for health checks of containers.
"""

import re
import sys
import time
import urllib.request
from http.client import HTTPException

FRESH_S = 15.0  # every main loop comes round within some seconds, whatever is away


def main() -> None:
    try:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy leads elsewhere
        with direct.open(f"http://127.0.0.1:{sys.argv[1]}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    except (OSError, HTTPException) as error:
        sys.exit(f"/metrics does not answer: {error}")
    beat = re.search(r"^icestream_\w+_heartbeat_timestamp_seconds (\S+)$", text, re.MULTILINE)
    age_s = time.time() - float(beat[1]) if beat else float("inf")
    if age_s > FRESH_S:
        sys.exit(f"the main loop has not come round for {age_s:.0f} s")


if __name__ == "__main__":
    main()
