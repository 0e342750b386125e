"""The real Triton without Docker: its wheel (``server``), its ONNX Runtime backend, and a server for a while (``serving``).

Used by the launcher, the exporter, the benchmarks and the tests.
"""
