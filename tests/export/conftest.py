"""PyTorch's exporter runs unmeasured: tracing it for the coverage figure would take longer than all other tests of this folder."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def unmeasured_exporter() -> Iterator[None]:
    export = torch.onnx.export

    def unmeasured(*arguments: Any, **options: Any) -> Any:
        trace = sys.gettrace()
        sys.settrace(None)
        try:
            return export(*arguments, **options)
        finally:
            sys.settrace(trace)

    torch.onnx.export = unmeasured
    yield
    torch.onnx.export = export
