"""compose.yaml's twin without Docker: the `icestream` command. ``parts`` says what runs, ``supervisor`` keeps it running."""
