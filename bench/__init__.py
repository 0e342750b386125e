"""Side-by-side measurements of the stream. `make bench` writes docs/measurements.md; every number there names its command."""
