"""*Stream*: does every event get its result, and how soon? The two top rows are the summary."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards.grafana.panels import ORANGE, RED, Row, board, lamp, lines, tile, timeline

LATENCY = "icestream_bridge_event_latency_seconds"
STAGE = "icestream_bridge_stage_duration_seconds"


def _alive(process: str) -> str:
    return f"min(abs(time() - icestream_{process}_heartbeat_timestamp_seconds)) < bool 30 or vector(0)"


def _mean(histogram: str, labels: str = "") -> str:
    return (
        f"sum(rate({histogram}_sum{labels}[$__rate_interval])) / sum(rate({histogram}_count{labels}[$__rate_interval]))"
    )


def _quantile(share: float) -> str:
    return f"histogram_quantile({share}, sum by (le) (rate({LATENCY}_bucket[$__rate_interval])))"


def _alive_row() -> Row:
    return [
        lamp("Emitter", _alive("emitter"), "Its main loop has made progress within 30 s."),
        lamp("Bridge", _alive("bridge"), "The main loop of at least one bridge has made progress within 30 s."),
        lamp(
            "Triton",
            'max(up{job="triton"}) or vector(0)',
            "Prometheus can scrape Triton. The retries show whether it serves the model.",
        ),
        lamp("Redis", "max(redis_up) or vector(0)", "Redis responds to redis-exporter."),
        lamp("Recorder", _alive("recorder"), "Its main loop has made progress within 30 s."),
        lamp(
            "MLflow",
            '(sum(increase(icestream_recorder_uploads_total{outcome="failed"}[1m])) == bool 0) or vector(0)',
            "No upload to MLflow has failed in the last minute.",
        ),
    ]


def _figures() -> Row:
    return [
        tile("Events in", "icestream:emitted:rate1m", "cps", "Events written into the stream per second."),
        tile("Events out", "icestream:stored:rate1m", "cps", "Results stored per second."),
        tile(
            "Backlog",
            'max(redis_stream_length{stream="{icestream}:events"})',
            "short",
            "Events in the stream without a result.",
            steps=[(500, ORANGE), (5000, RED)],
        ),
        tile(
            "Latency p99",
            "icestream:latency:p99",
            "s",
            "99 % of the results are stored within this time after the event was emitted. The budget is 1 s.",
            steps=[(0.5, ORANGE), (1, RED)],
        ),
        tile(
            "Rejected, last hour",
            'sum(increase(icestream_bridge_events_total{outcome="rejected"}[1h]) > 0'
            ' or (icestream_bridge_events_total{outcome="rejected"} unless icestream_bridge_events_total{outcome="rejected"} offset 1h)) or vector(0)',
            "short",
            "Entries that were rejected because they cannot be reconstructed (dead letters).",
            steps=[(1, ORANGE), (100, RED)],
        ),
        tile(
            "Oldest pending",
            "max(icestream_stream_oldest_pending_age_seconds)",
            "s",
            "Age of the oldest event that a bridge has read and not completed.",
            steps=[(15, ORANGE), (60, RED)],
        ),
    ]


def _alerts() -> Row:
    return [
        timeline(
            "Alerts",
            'max by (alertname) (ALERTS{alertstate="firing"})',
            "{{alertname}}",
            "Firing alerts and their duration. docs/operations.md has the runbooks.",
        ),
    ]


def _rates() -> Row:
    return [
        lines(
            "Events in and out",
            [
                ("sum(rate(icestream_emitter_events_total[$__rate_interval]))", "emitted"),
                ('sum(rate(icestream_bridge_events_total{outcome="stored"}[$__rate_interval]))', "stored"),
                ("sum(rate(icestream_recorder_events_total[$__rate_interval]))", "recorded"),
            ],
            "cps",
            "The lines coincide while the stream keeps up. The recorder works in windows of 5 s.",
        ),
        lines(
            "Where events wait",
            [
                ('max(redis_stream_length{stream="{icestream}:events"})', "backlog"),
                ("max(icestream_stream_pending_entries)", "read by a bridge"),
                ("sum(icestream_bridge_in_flight_requests)", "requests in flight"),
            ],
            "short",
            "If the backlog grows, the bridges do not keep up. If no bridge reads it, no bridge is running.",
        ),
    ]


def _latency() -> Row:
    return [
        lines(
            "From emitted to stored",
            [(_quantile(0.5), "p50"), (_quantile(0.95), "p95"), (_quantile(0.99), "p99")],
            "s",
            "Latency quantiles from emitted to stored.",
            limit=1,
        ),
        lines(
            "Mean time per stage",
            [
                (_mean("icestream_emitter_publish_duration_seconds"), "publish"),
                *((_mean(STAGE, f'{{stage="{stage}"}}'), stage) for stage in ("queued", "waiting", "triton", "store")),
            ],
            "s",
            "publish: written by the emitter; queued: until a bridge reads it; waiting: until its request is sent; triton: the request; store: the result stored.",
            stacked=True,
        ),
    ]


def _batches() -> Row:
    return [
        lines(
            "Batch size",
            [
                (_mean("icestream_bridge_batch_size_events"), "mean"),
                (
                    "histogram_quantile(0.95, sum by (le) (rate(icestream_bridge_batch_size_events_bucket[$__rate_interval])))",
                    "p95",
                ),
            ],
            "short",
            "Events per request to Triton: 1 in a calm stream, up to 32 under backlog.",
        ),
        lines(
            "Padding",
            [
                (
                    "1 - sum(rate(icestream_bridge_pulses_total[$__rate_interval])) / sum(rate(icestream_bridge_padded_pulses_total[$__rate_interval]))",
                    "padding",
                )
            ],
            "percentunit",
            "Share of padding in the input that is sent to Triton.",
            bounds=(0, 0.5),
        ),
        lines(
            "Errors and retries",
            [
                ("sum by (reason) (increase(icestream_bridge_rejected_total[1m]))", "rejected: {{reason}}"),
                ("sum by (target) (increase(icestream_bridge_retries_total[1m]))", "retries: {{target}}"),
                ("sum(increase(icestream_emitter_publish_failures_total[1m]))", "emitter: not written"),
                ('sum(increase(icestream_recorder_uploads_total{outcome="failed"}[1m]))', "recorder: not uploaded"),
                ("sum(increase(icestream_bridge_claimed_events_total[1m]))", "claimed"),
            ],
            "short",
            "Counts per minute. All are zero in normal operation.",
        ),
    ]


def _health() -> Row:
    return [
        lines(
            "Heartbeats",
            [
                (
                    'time() - {__name__=~"icestream_(emitter|bridge|challenger|deployer|recorder|display)_heartbeat_timestamp_seconds"}',
                    "{{job}} {{instance}}",
                )
            ],
            "s",
            "Time since the main loop of each process last made progress.",
            limit=30,
        ),
        lines(
            "Results to record",
            [
                ("max(icestream_stream_unrecorded_age_seconds)", "oldest result not on disk, s"),
                ("max(icestream_recorder_spool_files)", "windows not in MLflow"),
            ],
            "short",
            "The recorder writes results to disk every 5 s and uploads windows to MLflow as parts every minute.",
        ),
        lines(
            "Redis memory",
            [("max(redis_memory_used_bytes)", "used"), ("max(redis_memory_max_bytes)", "reference: limit")],
            "bytes",
            "At its limit Redis refuses writes, and the emitter waits.",
        ),
    ]


def _display() -> Row:
    return [
        lines(
            "Display",
            [
                ("sum by (status) (rate(icestream_display_requests_total[$__rate_interval]))", "requests: {{status}}"),
                ("max(icestream_display_pages)", "pages open"),
            ],
            "short",
            "REST requests per second, and open live pages.",
        ),
        lines(
            "Display, request time",
            [
                (
                    f"histogram_quantile({share}, sum by (le) (rate(icestream_display_request_duration_seconds_bucket[$__rate_interval])))",
                    f"p{share * 100:.0f}",
                )
                for share in (0.5, 0.99)
            ],
            "s",
            "Duration of REST requests. Most of it is Triton.",
        ),
    ]


def dashboard() -> Dashboard:
    return board(
        "Icestream · Stream",
        "icestream-stream",
        "Events in, results out: rates, backlog, latency, errors.",
        rows=[_alive_row(), _figures(), _alerts(), _rates(), _latency(), _batches(), _health(), _display()],
    )
