"""Side-by-side measurements of the stream. `make bench` writes the first part of docs/measurements.md, its other commands print what stands in the second."""
