"""Structured logs: one JSON line per message, on standard error."""

import logging
import sys
from typing import TextIO, cast

import structlog

from icestream.service.output import Output

Log = structlog.stdlib.BoundLogger


def configure_logs(process: str) -> Log:
    """The logger of a process."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", Output(sys.stderr))),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    log: Log = structlog.get_logger().bind(process=process)
    return log
