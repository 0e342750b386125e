"""A receiver of Alertmanager's webhook that prints each alert as a line of JSON: the default receiver."""

import json
from http.server import BaseHTTPRequestHandler, HTTPServer

PORT = 9094


class Receiver(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """For health checks."""
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        for alert in message["alerts"]:
            line = {"status": alert["status"], **alert["labels"], **alert["annotations"], "since": alert["startsAt"]}
            print(json.dumps(line, ensure_ascii=False), flush=True)
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """No access log: only alerts are printed."""


if __name__ == "__main__":
    HTTPServer(("", PORT), Receiver).serve_forever()
