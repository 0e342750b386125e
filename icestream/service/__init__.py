"""What any process of the stream needs to run: settings, logs, /metrics, health, retries, shutdown."""
