"""The panel types of the dashboards: lamp, tile, lines, bars and timeline."""

from collections.abc import Sequence
from typing import Any, TypeVar

from grafana_foundation_sdk.builders import bargauge, common, prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.builders.dashboard import Dashboard, DashboardLink, DatasourceVariable, ThresholdsConfig
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    LegendDisplayMode,
    LegendPlacement,
    ScaleDistribution,
    StackingMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
GREEN, ORANGE, RED = "green", "orange", "red"
WIDTH = 24  # of a dashboard, in Grafana's grid columns

P = TypeVar("P", stat.Panel, timeseries.Panel, bargauge.Panel, statetimeline.Panel)
Query = tuple[str, str]  # PromQL, legend
Steps = Sequence[tuple[float, str]]  # lower bound, colour; green below the first


Panel = stat.Panel | timeseries.Panel | bargauge.Panel | statetimeline.Panel
Row = Sequence[Panel]


def board(title: str, uid: str, description: str, *, rows: Sequence[Row]) -> Dashboard:
    """A dashboard with the common settings and links to the others; the panels of a row share its width equally."""
    links = DashboardLink("icestream").type(DashboardLinkType.DASHBOARDS).tags(["icestream"]).keep_time(True)
    made = (
        Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["icestream"])
        .readonly()
        .time("now-30m", "now")
        .refresh("5s")
        .timezone("utc")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(links)
        .with_variable(DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    for row in rows:
        for panel in row:
            made.with_panel(panel.span(WIDTH // len(row)))
    return made


def lamp(title: str, expr: str, meaning: str) -> stat.Panel:
    """A status lamp: green "running" if the expression is 1, red "DOWN" if it is 0 or empty."""
    words = {
        "1": ValueMappingResult(text="running", color=GREEN),
        "0": ValueMappingResult(text="DOWN", color=RED),
    }
    return (
        _with_common_options(stat.Panel(), title, meaning, 3)
        .with_target(_query(expr, "", instant=True))
        .mappings([ValueMap(words)])
        .no_value("DOWN")
        .thresholds(_thresholds([(1, GREEN)], below=RED))
        .color_mode(BigValueColorMode.BACKGROUND)
        .graph_mode(BigValueGraphMode.NONE)
    )


def tile(title: str, expr: str, unit: str, meaning: str, *, steps: Steps = ()) -> stat.Panel:
    """One number with its recent history behind it; `steps` colour it."""
    return (
        _with_common_options(stat.Panel(), title, meaning, 4)
        .with_target(_query(expr, ""))
        .unit(unit)
        .thresholds(_thresholds(steps))
        .color_mode(BigValueColorMode.BACKGROUND if steps else BigValueColorMode.VALUE)
        .graph_mode(BigValueGraphMode.AREA)
    )


def lines(
    title: str,
    queries: Sequence[Query],
    unit: str,
    meaning: str,
    *,
    stacked: bool = False,
    limit: float | None = None,
    bounds: tuple[float | None, float | None] = (0, None),
    logarithmic: bool = False,
) -> timeseries.Panel:
    """Values over time. Series whose legend begins with "reference" are dashed and grey; `limit` is a red line."""
    low, high = bounds
    panel = (
        _with_common_options(timeseries.Panel(), title, meaning, 8)
        .unit(unit)
        .line_width(1 if stacked else 2)
        .fill_opacity(60 if stacked else 5)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .override_by_regexp(
            "reference.*",
            [
                DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [8, 6]}),
                DynamicConfigValue("color", {"mode": "fixed", "fixedColor": "#8e8e8e"}),
                DynamicConfigValue("custom.fillOpacity", 0),
            ],
        )
    )
    if low is not None:
        panel.min(low)
    if high is not None:
        panel.max(high)
    if logarithmic:
        panel.scale_distribution(common.ScaleDistributionConfig().type(ScaleDistribution.LOG).log(10))
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    if limit is not None:
        panel.thresholds(_thresholds([(limit, RED)], below="transparent"))
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode("line"))  # type: ignore[arg-type]
    for expr, legend in queries:
        panel.with_target(_query(expr, legend))
    return panel


def bars(title: str, buckets: str, meaning: str) -> bargauge.Panel:
    """The current histogram: `buckets` has one series for each `le`."""
    return (
        _with_common_options(bargauge.Panel(), title, meaning, 8)
        .with_target(_query(buckets, "{{le}}", instant=True, heatmap=True))
        .unit("percentunit")
        .min(0)
        .orientation(VizOrientation.HORIZONTAL)
        .thresholds(_thresholds([], below="blue"))
    )


def timeline(title: str, expr: str, legend: str, meaning: str) -> statetimeline.Panel:
    """States over time: one row for each series, red while the series has a value."""
    return (
        _with_common_options(statetimeline.Panel(), title, meaning, 7)
        .with_target(_query(expr, legend))
        .mappings([ValueMap({"1": ValueMappingResult(text="firing", color=RED)})])
        .no_value("none")
        .thresholds(_thresholds([(1, RED)]))
    )


def _with_common_options(panel: P, title: str, meaning: str, height: int) -> P:
    builder: Any = panel
    builder.title(title).description(meaning).datasource(SOURCE).height(height)
    return panel


def _query(expr: str, legend: str, instant: bool = False, heatmap: bool = False) -> prometheus.Dataquery:
    query = prometheus.Dataquery().expr(expr).legend_format(legend).datasource(SOURCE)
    if heatmap:
        query.format(PromQueryFormat.HEATMAP)
    return query.instant() if instant else query.range()


def _thresholds(steps: Steps, below: str = GREEN) -> ThresholdsConfig:
    thresholds = [
        Threshold(value=None, color=below),
        *(Threshold(value=value, color=colour) for value, colour in steps),
    ]
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(thresholds)
