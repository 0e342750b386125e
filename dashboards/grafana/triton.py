"""*Triton*: what the server does with its requests, from its own metrics."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards.grafana.panels import ORANGE, RED, board, lines, tile


def _rate(counter: str) -> str:
    return f"sum(rate({counter}[$__rate_interval]))"


def dashboard() -> Dashboard:
    batch = f"{_rate('nv_inference_count')} / {_rate('nv_inference_exec_count')}"
    failures = 'sum(rate(nv_inference_request_failure{reason!="CANCELED"}[$__rate_interval]))'
    spans = {"queue": "queue", "compute_input": "copy in", "compute_infer": "model", "compute_output": "copy out"}
    return (
        board("Icestream · Triton", "icestream-triton", "Requests, executions, batches, times and failures of the inference server.")
        .with_panel(tile("Requests", _rate("nv_inference_request_success"), "reqps", "Requests answered each second."))
        .with_panel(tile("Events", _rate("nv_inference_count"), "cps", "Events answered each second."))
        .with_panel(tile("Events an execution", batch, "short", "How many events the model is run on at a time."))
        .with_panel(tile("Failures", failures, "reqps", "Requests that Triton failed at.", [(0.001, RED)]))
        .with_panel(tile("Queue", f"{_rate('nv_inference_queue_duration_us')} / {_rate('nv_inference_request_success')} / 1e6", "s", "Mean time a request waits for an instance.", [(0.2, ORANGE), (1, RED)]))
        .with_panel(tile("Waiting", "sum(nv_inference_pending_request_count)", "short", "Requests that wait for an instance now.", [(32, ORANGE), (256, RED)]))
        .with_panel(
            lines(
                "Requests, executions, events",
                [
                    (_rate("nv_inference_request_success"), "requests"),
                    (_rate("nv_inference_exec_count"), "executions"),
                    (_rate("nv_inference_count"), "events"),
                ],
                "cps",
                "Fewer executions than requests: Triton merges. Fewer requests than events: the bridge batches.",
            )
        )
        .with_panel(
            lines(
                "Mean batch",
                [(batch, "events an execution"), (f"{_rate('nv_inference_count')} / {_rate('nv_inference_request_success')}", "events a request")],
                "short",
                "Equal where Triton merges nothing.",
            )
        )
        .with_panel(
            lines(
                "Time of a request",
                [(f"{_rate(f'nv_inference_{span}_duration_us')} / {_rate('nv_inference_request_success')} / 1e6", word) for span, word in spans.items()],
                "s",
                "Mean of each part. A high queue: more instances or larger batches. A high model: a faster one, or a GPU.",
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Failures",
                [("sum by (model, reason) (rate(nv_inference_request_failure[$__rate_interval]))", "{{model}} {{reason}}")],
                "reqps",
                "Failed requests by reason. The bridge halves what fails until the guilty event is alone.",
            )
        )
        .with_panel(
            lines(
                "CPU and memory",
                [("max(nv_cpu_utilization)", "CPU of the machine"), ("max(nv_cpu_memory_used_bytes) / max(nv_cpu_memory_total_bytes)", "memory of the machine")],
                "percentunit",
                "As Triton sees its machine.",
                bounds=(0, 1),
            )
        )
        .with_panel(
            lines(
                "GPU",
                [
                    ("avg(nv_gpu_utilization)", "utilization"),
                    ("sum(nv_gpu_memory_used_bytes) / sum(nv_gpu_memory_total_bytes)", "memory"),
                    ("sum(nv_gpu_power_usage) / sum(nv_gpu_power_limit)", "power"),
                ],
                "percentunit",
                "Empty where Triton has no GPU.",
                bounds=(0, 1),
            )
        )
    )  # fmt: skip
