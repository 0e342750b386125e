"""The real Triton without Docker: its wheel (``server``), its ONNX Runtime backend, and a temporary server (``serving``).

Used by the launcher, the exporter, the benchmarks and the tests.
"""
