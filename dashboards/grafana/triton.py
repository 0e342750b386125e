"""*Triton*: requests, batches and times of the server, from its own metrics."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards.grafana.panels import ORANGE, RED, Row, board, lines, tile


def _rate(counter: str) -> str:
    return f"sum(rate({counter}[$__rate_interval]))"


EVENTS_PER_EXECUTION = f"{_rate('nv_inference_count')} / {_rate('nv_inference_exec_count')}"
FAILURES = 'sum(rate(nv_inference_request_failure{reason!="CANCELED"}[$__rate_interval]))'
SPANS = {"queue": "queue", "compute_input": "copy in", "compute_infer": "model", "compute_output": "copy out"}


def _figures() -> Row:
    return [
        tile("Requests", _rate("nv_inference_request_success"), "reqps", "Requests answered per second."),
        tile("Events", _rate("nv_inference_count"), "cps", "Events answered per second."),
        tile(
            "Events per execution",
            EVENTS_PER_EXECUTION,
            "short",
            "Mean number of events in one execution of the model.",
        ),
        tile("Failures", FAILURES, "reqps", "Requests that failed in Triton, per second.", steps=[(0.001, RED)]),
        tile(
            "Queue",
            f"{_rate('nv_inference_queue_duration_us')} / {_rate('nv_inference_request_success')} / 1e6",
            "s",
            "Mean time that a request waits for an instance.",
            steps=[(0.2, ORANGE), (1, RED)],
        ),
        tile(
            "Waiting",
            "sum(nv_inference_pending_request_count)",
            "short",
            "Requests that are waiting for an instance.",
            steps=[(32, ORANGE), (256, RED)],
        ),
    ]


def _throughput() -> Row:
    return [
        lines(
            "Requests, executions, events",
            [
                (_rate("nv_inference_request_success"), "requests"),
                (_rate("nv_inference_exec_count"), "executions"),
                (_rate("nv_inference_count"), "events"),
            ],
            "cps",
            "If there are fewer executions than requests, Triton merges requests. If there are fewer requests than events, the bridge batches.",
        ),
        lines(
            "Mean batch size",
            [
                (EVENTS_PER_EXECUTION, "events per execution"),
                (f"{_rate('nv_inference_count')} / {_rate('nv_inference_request_success')}", "events per request"),
            ],
            "short",
            "Both are equal if Triton merges no requests.",
        ),
    ]


def _latency() -> Row:
    return [
        lines(
            "Request time",
            [
                (f"{_rate(f'nv_inference_{span}_duration_us')} / {_rate('nv_inference_request_success')} / 1e6", word)
                for span, word in SPANS.items()
            ],
            "s",
            "Mean of each part. If the queue is long, add instances or use larger batches. If the model is slow, use a faster one or a GPU.",
            stacked=True,
        ),
        lines(
            "Failures",
            [("sum by (model, reason) (rate(nv_inference_request_failure[$__rate_interval]))", "{{model}} {{reason}}")],
            "reqps",
            "Failed requests by reason. The bridge bisects a failing request until the failing event is alone.",
        ),
    ]


def _resources() -> Row:
    return [
        lines(
            "CPU and memory",
            [
                ("max(nv_cpu_utilization)", "CPU of the machine"),
                ("max(nv_cpu_memory_used_bytes) / max(nv_cpu_memory_total_bytes)", "memory of the machine"),
            ],
            "percentunit",
            "As reported by Triton.",
            bounds=(0, 1),
        ),
        lines(
            "GPU",
            [
                ("avg(nv_gpu_utilization)", "utilization"),
                ("sum(nv_gpu_memory_used_bytes) / sum(nv_gpu_memory_total_bytes)", "memory"),
                ("sum(nv_gpu_power_usage) / sum(nv_gpu_power_limit)", "power"),
            ],
            "percentunit",
            "Empty if Triton has no GPU.",
            bounds=(0, 1),
        ),
    ]


def dashboard() -> Dashboard:
    return board(
        "Icestream · Triton",
        "icestream-triton",
        "Requests, executions, batches, times and failures of Triton.",
        rows=[_figures(), _throughput(), _latency(), _resources()],
    )
