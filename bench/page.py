"""An open page, as far as the stream is concerned."""

import json
import time
import urllib.request
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path


def follow_page(ports: Path) -> None:
    """Read what an open page reads, from the start of the display whose port is in this file to its end."""
    while True:
        with suppress(OSError, HTTPException, ValueError):
            port = json.loads(ports.read_text())["display"]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/live") as live:
                while live.readline():
                    pass
            return
        time.sleep(0.5)
