"""Each door with what may come through it, and what may not (docs/security.md)."""
