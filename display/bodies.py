"""Bodies as clients send them: compressed, or in another encoding than UTF-8."""

import json
import zlib

from flask import Request

from display.rest import MAX_BODY_BYTES
from display.schemas import Failure

CHARSETS = ("utf-8", "utf8", "us-ascii", "utf-16", "utf-16le", "utf-16be", "utf-32", "utf-32le", "utf-32be")


def json_body(request: Request) -> bytes:
    """The body without compression, in UTF-8 and without a byte order mark.

    Raises:
        Failure: 415 if it is not called JSON (a page of another origin may send anything else unasked), or is in another encoding, 413 if it is too large without its compression, 400 if it is damaged.
    """
    if request.mimetype != "application/json":
        raise Failure(415, "unsupported_media_type", "send Content-Type: application/json")
    body = request.get_data(cache=False)
    compression = request.headers.get("Content-Encoding", "identity").strip().lower()
    if compression in ("gzip", "x-gzip"):
        body = _decompressed(body)
    elif compression != "identity":
        raise Failure(
            415, "unsupported_media_type", f"Content-Encoding {compression} is not understood: send gzip, or none"
        )
    charset = request.mimetype_params.get("charset", "utf-8").lower()
    if charset not in CHARSETS:
        raise Failure(415, "unsupported_media_type", f"charset {charset} is not understood: JSON is sent in UTF-8")
    encoding = json.detect_encoding(body)  # by its first bytes: JSON begins with two ASCII characters
    if encoding == "utf-8":
        return body
    try:
        return body.decode(encoding).encode()
    except UnicodeDecodeError as error:
        raise Failure(400, "bad_json", f"the body looks like {encoding}, but is not: {error.reason}") from None


def _decompressed(body: bytes) -> bytes:
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        unpacked = unpacker.decompress(body, MAX_BODY_BYTES + 1)
    except zlib.error:
        raise Failure(400, "bad_gzip", "the body is no gzip, as its Content-Encoding says") from None
    if len(unpacked) > MAX_BODY_BYTES:
        raise Failure(
            413, "request_entity_too_large", f"a body may have {MAX_BODY_BYTES} bytes without its compression"
        )
    if not unpacker.eof or unpacker.unused_data:
        raise Failure(400, "bad_gzip", "the body is not one whole gzip member")
    return unpacked
