"""compose.yaml's twin without Docker: the `icestream` command. ``plan`` says what runs, ``supervisor`` keeps it running."""
