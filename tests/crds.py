"""The fields of the custom resources that deploy/kubernetes uses: of KEDA 2.20 (keda.sh/v1alpha1) and the Prometheus operator
(monitoring.coreos.com/v1), by their reference documentation. Unknown ones are refused."""

from typing import Any

TEXT, WHOLE, NAMED = {"type": "string"}, {"type": "integer"}, {"type": "object"}
DURATION = {"type": "string", "pattern": r"^\d+(ms|s|m|h)$"}


def fields(required: list[str] | None = None, **known: Any) -> dict[str, Any]:
    return {"type": "object", "properties": known, "required": required or [], "additionalProperties": False}


def listed(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item}


_SCALING = fields(
    stabilizationWindowSeconds=WHOLE, selectPolicy=TEXT, tolerance=TEXT,
    policies=listed(fields(["type", "value", "periodSeconds"], type={"enum": ["Pods", "Percent"]}, value=WHOLE, periodSeconds=WHOLE)),
)  # fmt: skip
_RELABEL = fields(
    action=TEXT, modulus=WHOLE, regex=TEXT, replacement=TEXT, separator=TEXT, sourceLabels=listed(TEXT), targetLabel=TEXT
)  # fmt: skip
SCHEMAS: dict[str, dict[str, Any]] = {
    "ScaledObject": fields(
        ["scaleTargetRef", "triggers"],
        scaleTargetRef=fields(["name"], apiVersion=TEXT, kind=TEXT, name=TEXT, envSourceContainerName=TEXT),
        pollingInterval=WHOLE, cooldownPeriod=WHOLE, initialCooldownPeriod=WHOLE, idleReplicaCount=WHOLE, minReplicaCount=WHOLE, maxReplicaCount=WHOLE,
        fallback=fields(
            ["failureThreshold", "replicas"], failureThreshold=WHOLE, replicas=WHOLE,
            behavior={"enum": ["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"]},
        ),
        advanced=fields(
            restoreToOriginalReplicaCount={"type": "boolean"},
            scalingModifiers=fields(target=TEXT, activationTarget=TEXT, metricType=TEXT, formula=TEXT),
            horizontalPodAutoscalerConfig=fields(name=TEXT, behavior=fields(scaleUp=_SCALING, scaleDown=_SCALING)),
        ),
        triggers=listed(
            fields(
                ["type", "metadata"], type=TEXT, name=TEXT, useCachedMetrics={"type": "boolean"},
                metricType={"enum": ["AverageValue", "Value", "Utilization"]},
                authenticationRef=fields(["name"], name=TEXT, kind=TEXT),
                metadata={"type": "object", "additionalProperties": TEXT},
            )
        ),
    ),
    "TriggerAuthentication": fields(
        podIdentity=NAMED, env=listed(fields(["parameter", "name"], parameter=TEXT, name=TEXT, containerName=TEXT)),
        secretTargetRef=listed(fields(["parameter", "name", "key"], parameter=TEXT, name=TEXT, key=TEXT)),
        configMapTargetRef=listed(fields(["parameter", "name", "key"], parameter=TEXT, name=TEXT, key=TEXT)),
    ),
    "PodMonitor": fields(
        ["selector"],
        attachMetadata=NAMED, jobLabel=TEXT, labelLimit=WHOLE, namespaceSelector=fields(any={"type": "boolean"}, matchNames=listed(TEXT)),
        podTargetLabels=listed(TEXT), sampleLimit=WHOLE, scrapeClass=TEXT, targetLimit=WHOLE,
        selector=fields(matchLabels=NAMED, matchExpressions=listed(NAMED)),
        podMetricsEndpoints=listed(
            fields(
                port=TEXT, portNumber=WHOLE, path=TEXT, scheme=TEXT, params=NAMED, interval=DURATION, scrapeTimeout=DURATION,
                honorLabels={"type": "boolean"}, honorTimestamps={"type": "boolean"}, followRedirects={"type": "boolean"}, filterRunning={"type": "boolean"},
                relabelings=listed(_RELABEL), metricRelabelings=listed(_RELABEL),
            )
        ),
    ),
    "PrometheusRule": fields(
        ["groups"],
        groups=listed(
            fields(
                ["name", "rules"], name=TEXT, interval=DURATION, limit=WHOLE, labels=NAMED, query_offset=DURATION, partial_response_strategy=TEXT,
                rules=listed(
                    {
                        **fields(["expr"], alert=TEXT, record=TEXT, expr=TEXT, labels=NAMED, annotations=NAMED, keep_firing_for=DURATION, **{"for": DURATION}),
                        "oneOf": [{"required": ["alert"]}, {"required": ["record"]}],
                    }
                ),
            )
        ),
    ),
}  # fmt: skip
TRIGGER_METADATA = {
    "redis-streams": {
        "address", "host", "port", "usernameFromEnv", "passwordFromEnv", "stream", "consumerGroup", "pendingEntriesCount", "streamLength", "lagCount",
        "activationLagCount", "activationStreamLength", "databaseIndex", "enableTLS", "unsafeSsl",
    },
    "cpu": {"value", "containerName"},
    "prometheus": {
        "serverAddress", "namespace", "customHeaders", "query", "threshold", "activationThreshold", "ignoreNullValues", "unsafeSsl", "queryParameters", "timeout",
        "authModes",
    },
}  # fmt: skip
