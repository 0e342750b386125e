"""*Stream*: does every event get its result, and how soon? Who looks for ten seconds looks at the two top rows."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards.grafana.panels import ORANGE, RED, Row, board, lamp, lines, tile, timeline

LATENCY = "icestream_bridge_event_latency_seconds"
STAGE = "icestream_bridge_stage_duration_seconds"


def _alive(process: str) -> str:
    return f"(time() - max(icestream_{process}_heartbeat_timestamp_seconds)) < bool 30 or vector(0)"


def _mean(histogram: str, labels: str = "") -> str:
    return (
        f"sum(rate({histogram}_sum{labels}[$__rate_interval])) / sum(rate({histogram}_count{labels}[$__rate_interval]))"
    )


def _quantile(share: float) -> str:
    return f"histogram_quantile({share}, sum by (le) (rate({LATENCY}_bucket[$__rate_interval])))"


def _alive_row() -> Row:
    return [
        lamp("Emitter", _alive("emitter"), "Its main loop came round within 30 s."),
        lamp("Bridge", _alive("bridge"), "The main loop of at least one bridge came round within 30 s."),
        lamp(
            "Triton",
            'max(up{job="triton"}) or vector(0)',
            "Triton answers Prometheus. Whether it serves the model, the retries tell.",
        ),
        lamp("Redis", "max(redis_up) or vector(0)", "Redis answers redis-exporter."),
        lamp("Recorder", _alive("recorder"), "Its main loop came round within 30 s."),
        lamp(
            "MLflow",
            '(sum(increase(icestream_recorder_uploads_total{outcome="failed"}[1m])) == bool 0) or vector(0)',
            "No upload of the recorder has failed for a minute.",
        ),
    ]


def _figures() -> Row:
    return [
        tile("Events in", "icestream:emitted:rate1m", "cps", "Events put into the stream each second."),
        tile("Events out", "icestream:stored:rate1m", "cps", "Results stored each second."),
        tile(
            "Backlog",
            'max(redis_stream_length{stream="icestream:events"})',
            "short",
            "Events without a result.",
            steps=[(500, ORANGE), (5000, RED)],
        ),
        tile(
            "Latency p99",
            "icestream:latency:p99",
            "s",
            "99 % of the events are stored within this time of being emitted. The budget is 1 s.",
            steps=[(0.5, ORANGE), (1, RED)],
        ),
        tile(
            "Rejected in an hour",
            'sum(increase(icestream_bridge_events_total{outcome="rejected"}[1h]))',
            "short",
            "Entries that can never be reconstructed.",
            steps=[(1, ORANGE), (100, RED)],
        ),
        tile(
            "Oldest pending",
            "max(icestream_stream_oldest_pending_age_seconds)",
            "s",
            "Age of the oldest event that a bridge has read and not finished.",
            steps=[(15, ORANGE), (60, RED)],
        ),
    ]


def _alerts() -> Row:
    return [
        timeline(
            "Alerts",
            'max by (alertname) (ALERTS{alertstate="firing"})',
            "{{alertname}}",
            "What is firing, and since when. docs/operations.md says what to do.",
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
            "The lines lie on each other while the stream keeps up; the recorder works in windows of 5 s.",
        ),
        lines(
            "Where events wait",
            [
                ('max(redis_stream_length{stream="icestream:events"})', "backlog"),
                ("max(icestream_stream_pending_entries)", "read by a bridge"),
                ("sum(icestream_bridge_in_flight_requests)", "requests in flight"),
            ],
            "short",
            "A backlog that grows: the bridges do not keep up. A backlog nobody reads: there is no bridge.",
        ),
    ]


def _latency() -> Row:
    return [
        lines(
            "From emitted to stored",
            [(_quantile(0.5), "p50"), (_quantile(0.95), "p95"), (_quantile(0.99), "p99")],
            "s",
            "Quantiles of the whole way of an event.",
            limit=1,
        ),
        lines(
            "Where the time goes",
            [
                (_mean("icestream_emitter_publish_duration_seconds"), "publish"),
                *((_mean(STAGE, f'{{stage="{stage}"}}'), stage) for stage in ("queued", "waiting", "triton", "store")),
            ],
            "s",
            "Mean of each stage: written by the emitter; until a bridge has read it; until a request leaves; Triton; the result stored.",
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
            "Events of one request to Triton: 1 when the stream is calm, up to 32 when it is not.",
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
            "Share of what Triton is sent that is no pulse.",
            bounds=(0, 0.5),
        ),
        lines(
            "What went wrong",
            [
                ("sum by (reason) (increase(icestream_bridge_rejected_total[1m]))", "rejected: {{reason}}"),
                ("sum by (target) (increase(icestream_bridge_retries_total[1m]))", "retries: {{target}}"),
                ("sum(increase(icestream_emitter_publish_failures_total[1m]))", "emitter: not written"),
                ('sum(increase(icestream_recorder_uploads_total{outcome="failed"}[1m]))', "recorder: not uploaded"),
                ("sum(increase(icestream_bridge_claimed_events_total[1m]))", "taken over"),
            ],
            "short",
            "Each in a minute. All zero is well.",
        ),
    ]


def _health() -> Row:
    return [
        lines(
            "Heartbeats",
            [
                (
                    'time() - {__name__=~"icestream_(emitter|bridge|recorder|display)_heartbeat_timestamp_seconds"}',
                    "{{job}} {{instance}}",
                )
            ],
            "s",
            "Age of each process's last round of its main loop.",
            limit=30,
        ),
        lines(
            "Until recorded",
            [
                ("max(icestream_stream_unrecorded_age_seconds)", "oldest result not on disk, s"),
                ("max(icestream_recorder_spool_files)", "windows not in MLflow"),
            ],
            "short",
            "The recorder takes results every 5 s and brings windows to MLflow as parts every minute.",
        ),
        lines(
            "Redis memory",
            [("max(redis_memory_used_bytes)", "used"), ("max(redis_memory_max_bytes)", "reference: limit")],
            "bytes",
            "At its limit Redis refuses to write, and the emitter waits.",
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
            "Requests to REST each second, and the live pages that are open.",
        ),
        lines(
            "Display, time of a request",
            [
                (
                    f"histogram_quantile({share}, sum by (le) (rate(icestream_display_request_duration_seconds_bucket[$__rate_interval])))",
                    f"p{share * 100:.0f}",
                )
                for share in (0.5, 0.99)
            ],
            "s",
            "Of REST; most of it is Triton.",
        ),
    ]


def dashboard() -> Dashboard:
    return board(
        "Icestream · Stream",
        "icestream-stream",
        "Events in, directions out: rates, backlog, latency, what goes wrong.",
        rows=[_alive_row(), _figures(), _alerts(), _rates(), _latency(), _batches(), _health(), _display()],
    )
