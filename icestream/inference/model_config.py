"""Triton's model configuration, config.pbtxt, as a message."""

from typing import Any

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig


def parse_config(text: str) -> Any:
    """The message in the text of a config.pbtxt; raises ValueError if it is not one."""
    try:
        return text_format.Parse(text, ModelConfig())
    except text_format.ParseError as error:
        raise ValueError(f"not a configuration of a model: {error}") from None
