"""The door of the display's server: what is read of a request before the application sees it.

Waitress keeps a whole body before it asks the application. Here a body is kept only of a request whose headers the
application will not refuse for its token, size or type, while there is room for it, and the time to send it has an end.
"""

import errno
import io
import resource
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import waitress
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import BaseWSGIServer
from waitress.utilities import BadRequest, Error

from display.rest import MAX_BODY_BYTES
from display.schemas import error

CONNECTIONS = 4000  # open at a time, at most; one that is idle holds no thread
OWN_FILES = 200  # descriptors for everything else
FEWEST = 20  # connections that are worth a start
MAX_HEAD_BYTES = 16 * 1024  # of a request
MAX_CHUNK_HEAD_BYTES = 8 * 1024
IDLE_S = 20  # after which a connection is closed
SEND_S = 60  # for a request, however steadily it comes
ROOM_BYTES = 96 * 2**20  # of bodies that are received or being answered, together


class Room:
    """How many bytes of bodies there may be at a time."""

    def __init__(self, size: int = ROOM_BYTES):
        self._free, self._lock = size, threading.Lock()

    def take(self, size: int) -> bool:
        """Take so many bytes; False if there is no room for them."""
        with self._lock:
            if size > self._free:
                return False
            self._free -= size
            return True

    def give(self, size: int) -> None:
        with self._lock:
            self._free += size


class _Nowhere:
    """A buffer for a body that nobody will read; the client sends all of it before it looks for the reply."""

    def append(self, data: bytes) -> None:
        pass

    def getfile(self) -> io.BytesIO:
        return io.BytesIO()

    def close(self) -> None:
        pass

    def __len__(self) -> int:
        return 0


class _Busy(Error):  # type: ignore[misc]
    code, reason = 503, "Service Unavailable"

    def to_response(self, ident: str | None = None) -> tuple[str, list[tuple[str, str]], bytes]:  # noqa: ARG002
        body = msgspec.json.encode(error("busy", self.body))
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("Retry-After", "1")]
        return f"{self.code} {self.reason}", [*headers, ("Connection", "close")], body


class _Parser(HTTPRequestParser):  # type: ignore[misc]
    """A request while it comes."""

    room: Room
    refuses: Callable[[str, Mapping[str, str]], bool]
    error: Error | None

    def __init__(self, adjustments: Any):
        super().__init__(adjustments)
        self.began_s, self._taken, self._closed, self._busy = time.time(), 0, False, False

    def parse_header(self, header_plus: bytes) -> None:
        super().parse_header(header_plus)
        if self.body_rcv is not None and self.refuses("/" + self.path.lstrip("/"), self.headers):
            self.body_rcv.buf = _Nowhere()

    def received(self, data: bytes) -> int:
        consumed: int = super().received(data)
        if self.body_rcv is not None and not (self.error or self._closed):
            self._account(len(self.body_rcv))
        if self.completed and self._busy and not self.error:
            self.error = _Busy("others are sending too much; ask again")
        return consumed

    def _account(self, kept: int) -> None:
        """Take room for what is kept of the body; where there is none, the rest is thrown away as it comes."""
        if self.chunked and len(self.body_rcv.control_line) + len(self.body_rcv.trailer) > MAX_CHUNK_HEAD_BYTES:
            self.error, self.completed = (
                BadRequest("the size of a chunk, or what follows the last one, is too long"),
                True,
            )
        elif self.room.take(max(0, kept - self._taken)):
            self._taken = max(self._taken, kept)
        else:
            self.body_rcv.buf.close()
            self.body_rcv.buf, self._busy = _Nowhere(), True
            self._give_back()

    def _give_back(self) -> None:
        taken, self._taken = self._taken, 0
        self.room.give(taken)

    def close(self) -> None:
        self._closed = True
        super().close()
        self._give_back()


class _Channel(HTTPChannel):  # type: ignore[misc]
    """A connection."""

    last_activity: float

    def handle_read(self) -> None:
        super().handle_read()
        if self.request is not None:  # not whole yet
            self.last_activity = min(self.last_activity, self.request.began_s + SEND_S - IDLE_S)

    def handle_close(self) -> None:
        if self.request is not None:
            self.request.close()
        for waiting in self.requests[1:]:  # the first is being answered
            waiting.close()
        super().handle_close()


def create_server(
    app: Any, host: str, port: int, *, threads: int, refuses: Callable[[str, Mapping[str, str]], bool]
) -> Any:
    """Waitress's server of an application, with the door before it. Raises OSError.

    Args:
        refuses: whether the application will refuse a request by its path and headers (Content-Type is CONTENT_TYPE): then its body is
            thrown away as it comes.
    """
    server: Any = waitress.create_server(
        app,
        host=host,
        port=port,
        threads=threads,
        send_bytes=1,
        ident="icestream",
        max_request_body_size=2 * MAX_BODY_BYTES,
        max_request_header_size=MAX_HEAD_BYTES,
        connection_limit=_connections(),
        channel_timeout=IDLE_S,
        cleanup_interval=5,
        asyncore_use_poll=True,  # select() takes 1024 connections
        clear_untrusted_proxy_headers=False,  # display.app knows whom to believe
    )
    channel = channel_class(Room(), refuses)
    for one in {server, *getattr(server, "map", {}).values()}:  # a host with several addresses has several
        if isinstance(one, BaseWSGIServer):
            one.channel_class = channel
    return server


def _connections() -> int:
    """How many connections this process may have open; raises OSError if it may open hardly any file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + OWN_FILES
    if soft < wanted and (hard == resource.RLIM_INFINITY or hard > soft):
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft < OWN_FILES + FEWEST:
        raise OSError(errno.EMFILE, f"{soft} open files are allowed, {OWN_FILES + FEWEST} are needed: ulimit -n")
    return min(CONNECTIONS, soft - OWN_FILES)


def channel_class(room: Room, refuses: Callable[[str, Mapping[str, str]], bool]) -> type[HTTPChannel]:
    """The class of connections of one server: Waitress makes them, and their requests, by itself."""
    parser = type("Parser", (_Parser,), {"room": room, "refuses": staticmethod(refuses)})
    return type("Channel", (_Channel,), {"parser_class": parser})
