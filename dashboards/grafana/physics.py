"""*Physics*: are the results as expected? Each quantity is shown beside its reference (recorder/reference.py)."""

from grafana_foundation_sdk.builders import bargauge, timeseries
from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards.grafana.panels import ORANGE, RED, Query, Row, bars, board, lines, tile

RANGE = "10m"  # long enough for more than a thousand events
ANGLE = "icestream_recorder_opening_angle_degrees"


def _quantile(share: float, histogram: str, labels: str = "") -> str:
    return f"histogram_quantile({share}, sum by (le) (rate({histogram}_bucket{labels}[{RANGE}])))"


def _mean_angle(by: str) -> str:
    return f'sum(rate({ANGLE}_sum{{by="{by}"}}[{RANGE}])) / sum(rate({ANGLE}_count{{by="{by}"}}[{RANGE}]))'


def _quantiles(
    title: str, name: str, meaning: str, unit: str = "short", low: float = 0, logarithmic: bool = False
) -> timeseries.Panel:
    """Quantiles of a distribution over time; those of the reference are dashed."""
    queries: list[Query] = []
    for share in (0.1, 0.5, 0.9):
        queries.append((_quantile(share, f"icestream_recorder_{name}"), f"{share:.0%}"))
        reference = f"histogram_quantile({share}, sum by (le) (icestream_recorder_reference_{name}_bucket))"
        queries.append((reference, f"reference {share:.0%}"))
    return lines(title, queries, unit, meaning, bounds=(low, None), logarithmic=logarithmic)


def _distribution(title: str, name: str, labels: str = "") -> bargauge.Panel:
    buckets = f"icestream_recorder_{name}_bucket"
    whole = '{le="+Inf"}' if not labels else '{le="+Inf", ' + labels + "}"
    some = "{" + labels + "}" if labels else ""
    expr = f"sum by (le) (rate({buckets}{some}[{RANGE}])) / on () group_left () sum(rate({buckets}{whole}[{RANGE}]))"
    return bars(title, expr, f"Share of the results of the last {RANGE} in each bucket, by upper edge.")


def _reference(title: str, name: str) -> bargauge.Panel:
    buckets = f"icestream_recorder_reference_{name}_bucket"
    expr = f'max by (le) ({buckets}) / on () group_left () max({buckets}{{le="+Inf"}})'
    return bars(title, expr, "The same for the reference.")


DRIFT = [(0.05, ORANGE), (0.1, RED)]


def _figures() -> Row:
    return [
        tile("Opening angle", _mean_angle("network"), "degree", f"Mean opening angle to the truth, last {RANGE}."),
        tile(
            "LineFit opening angle",
            _mean_angle("linefit"),
            "degree",
            "The same for LineFit, the baseline of the network.",
        ),
        tile(
            "Angle relative to reference",
            "icestream:accuracy:opening_angle_ratio",
            "percentunit",
            "Mean opening angle as a percentage of that of the reference. Larger is worse.",
            steps=[(1.1, ORANGE), (1.2, RED)],
        ),
        tile(
            "κ drift",
            "icestream:drift:kappa",
            "percentunit",
            "Largest difference between the cumulative shares of the results and of the reference.",
            steps=DRIFT,
        ),
        tile("Zenith drift", "icestream:drift:cos_zenith", "percentunit", "The same for cos zenith.", steps=DRIFT),
        tile(
            "Cut events",
            f'sum(rate(icestream_bridge_cut_events_total[{RANGE}])) / sum(rate(icestream_bridge_events_total{{outcome="stored"}}[{RANGE}]))',
            "percentunit",
            "Share of the events with more pulses than the model's limit.",
        ),
    ]


def _accuracy() -> Row:
    return [
        lines(
            "Opening angle to the truth",
            [
                (_mean_angle("network"), "mean"),
                (_quantile(0.5, ANGLE, '{by="network"}'), "median"),
                (_mean_angle("linefit"), "LineFit, mean"),
                (_quantile(0.5, ANGLE, '{by="linefit"}'), "LineFit, median"),
                (
                    "max(icestream_recorder_reference_opening_angle_degrees_sum) / max(icestream_recorder_reference_opening_angle_degrees_count)",
                    "reference mean",
                ),
                (
                    "histogram_quantile(0.5, sum by (le) (icestream_recorder_reference_opening_angle_degrees_bucket))",
                    "reference median",
                ),
            ],
            "degree",
            "For events whose truth is known.",
        ),
        lines(
            "Drift from the reference",
            [("icestream:drift:kappa", "κ"), ("icestream:drift:cos_zenith", "cos zenith")],
            "percentunit",
            "Largest difference of the cumulative shares (Kolmogorov–Smirnov). Noise of 2000 events is some 4 %.",
            limit=0.1,
        ),
    ]


def _quantile_row() -> Row:
    return [
        _quantiles("κ", "kappa", "Quantiles of κ: 10, 50 and 90 % of the results have a smaller κ.", logarithmic=True),
        _quantiles("cos zenith", "cos_zenith", "Quantiles; 1 is vertically above.", low=-1),
        _quantiles(
            "Azimuth",
            "azimuth_degrees",
            "Quantiles; the distribution is uniform unless the detector or the source is not.",
            unit="degree",
        ),
    ]


def _confidence_and_zenith() -> Row:
    return [
        _distribution("κ, now", "kappa"),
        _reference("κ, reference", "kappa"),
        _distribution("cos zenith, now", "cos_zenith"),
        _reference("cos zenith, reference", "cos_zenith"),
    ]


def _azimuth_and_pulses() -> Row:
    return [
        _distribution("Azimuth, now", "azimuth_degrees"),
        _reference("Azimuth, reference", "azimuth_degrees"),
        _distribution("Opening angle, now", "opening_angle_degrees", 'by="network"'),
        _reference("Opening angle, reference", "opening_angle_degrees"),
    ]


def _angles() -> Row:
    return [
        _quantiles(
            "Pulses per event",
            "pulses",
            "Quantiles of the number of pulses within the readout window.",
            logarithmic=True,
        ),
        lines(
            "Cut events, dropped pulses",
            [
                (
                    'sum(rate(icestream_bridge_cut_events_total[$__rate_interval])) / sum(rate(icestream_bridge_events_total{outcome="stored"}[$__rate_interval]))',
                    "events cut",
                ),
                (
                    "sum(rate(icestream_bridge_dropped_pulses_total[$__rate_interval])) / sum(rate(icestream_emitter_pulses_total[$__rate_interval]))",
                    "pulses outside the readout window",
                ),
            ],
            "percentunit",
            "Events with too many pulses are cut to a selection of them; pulses outside 0…100 µs are dropped.",
        ),
        lines(
            "Truth",
            [
                ("sum by (truth) (rate(icestream_recorder_events_total[$__rate_interval]))", "{{truth}}"),
                ("max(icestream_recorder_unmatched_truths)", "truths without a result"),
            ],
            "short",
            "Results per second, by whether their truth is known.",
        ),
    ]


def _challenge() -> Row:
    challenge = "icestream_recorder_challenge"
    return [
        lines(
            "Challenger against champion",
            [
                (f'max({challenge}_difference_degrees{{bound="mean"}})', "mean"),
                (f'max({challenge}_difference_degrees{{bound="low"}})', "reference: low"),
                (f'max({challenge}_difference_degrees{{bound="high"}})', "reference: high"),
            ],
            "degree",
            "Opening angle of the challenger minus the champion's, on the same events, with the 95 % interval; below 0 it is better. Empty while there is no challenger.",
            bounds=(None, None),
        ),
        lines(
            "Challenger, held by the radii",
            [
                (f"max by (by) ({challenge}_within_half_ratio)", "{{by}}, 50 %"),
                (f"max by (by) ({challenge}_within_most_ratio)", "{{by}}, 90 %"),
                ("vector(0.5)", "reference: 50 %"),
                ("vector(0.9)", "reference: 90 %"),
            ],
            "percentunit",
            "Share of the events whose truth is within the radius of either.",
            bounds=(0, 1),
        ),
        lines(
            "Challenger, copies",
            [
                (f"max by (outcome) ({challenge}_copies)", "{{outcome}}"),
                (f"max({challenge}_pairs)", "answered by both"),
            ],
            "short",
            "Copies of events for the challenger, in the challenge under way. Those that are dropped came too fast for it.",
        ),
        lines(
            "Challenger, time of an answer",
            [(f"max by (by) ({challenge}_answer_seconds)", "{{by}}, p99")],
            "s",
            "Seconds within which Triton gave 99 % of the answers that are compared.",
        ),
    ]


def dashboard() -> Dashboard:
    return board(
        "Icestream · Physics",
        "icestream-physics",
        "Distributions of the results, compared with the truth where it is known and with the reference.",
        rows=[
            _figures(),
            _accuracy(),
            _quantile_row(),
            _confidence_and_zenith(),
            _azimuth_and_pulses(),
            _angles(),
            _challenge(),
        ],
    )
