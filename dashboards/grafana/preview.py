"""Draws the dashboards' layout from a live Prometheus, for looking at them where there is no Grafana.

    python -m dashboards.grafana.preview http://127.0.0.1:9090 FOLDER

writes FOLDER/stream.png and so on: the panels where Grafana puts them, with what their queries give. Not how Grafana draws them.
"""

import json
import re
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dashboards.grafana.__main__ import FOLDER

matplotlib.use("Agg")
SPAN_S, STEP_S = 1800, 15
CELL_IN = (0.75, 0.42)  # width and height of a cell of Grafana's grid of 24 columns
COLOURS = {"green": "#2e8b57", "orange": "#e08e0b", "red": "#c4262e", "blue": "#3274d9", "transparent": "none"}
UNITS = {"s": "s", "cps": "/s", "reqps": "/s", "degree": "°", "percentunit": "%", "bytes": "B", "short": ""}

Series = dict[str, Any]


def ask(prometheus: str, expr: str, instant: bool, now: float) -> list[Series]:
    """What Prometheus answers to a panel's expression, as series of (time, value), of the last half hour or of `now`.

    Raises:
        urllib.error.HTTPError: it refuses the expression.
    """
    given: dict[str, Any] = {"query": expr.replace("$__rate_interval", "1m")}
    given |= {"time": now} if instant else {"start": now - SPAN_S, "end": now, "step": STEP_S}
    kind = "query" if instant else "query_range"
    with urllib.request.urlopen(f"{prometheus}/api/v1/{kind}?{urllib.parse.urlencode(given)}", timeout=20) as answer:
        found: list[Series] = json.load(answer)["data"]["result"]
    for series in found:
        series["points"] = [(float(when), float(value)) for when, value in series.get("values") or [series["value"]]]
    return found


def draw(dashboard: dict[str, Any], prometheus: str, path: Path) -> None:
    """A dashboard as a picture."""
    now = time.time()
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    figure = Figure(figsize=(24 * CELL_IN[0], rows * CELL_IN[1]), facecolor="#111217")
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        x, y, w, h = place.get("x", 0), place.get("y", 0), place["w"], place["h"]
        left, top = {"stat": 0.1, "state-timeline": 2}.get(panel["type"], 0.5), 0.9
        axes = figure.add_axes(
            ((x + left) / 24, 1 - (y + h - 0.9) / rows, (w - left - 0.3) / 24, (h - 0.9 - top) / rows)
        )
        axes.set_facecolor("#181b1f")
        axes.set_title(panel["title"], color="#dddddd", fontsize=9, loc="left", pad=3)
        axes.tick_params(colors="#999999", labelsize=6)
        found = []
        for target in panel["targets"]:
            for series in ask(prometheus, target["expr"], bool(target.get("instant")), now):
                legend = target["legendFormat"]
                for name in re.findall(r"{{(\w+)}}", legend):
                    legend = legend.replace("{{" + name + "}}", series["metric"].get(name, ""))
                found.append((legend, series["points"]))
        {"stat": _tile, "bargauge": _bars, "state-timeline": _timeline, "timeseries": _lines}[panel["type"]](
            axes, panel, found
        )
    figure.savefig(path, dpi=100)


def _tile(axes: Axes, panel: dict[str, Any], found: list[Any]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    value = found[0][1][-1][1] if found else None
    words = {
        key: word["text"] for mapping in defaults.get("mappings") or [] for key, word in mapping["options"].items()
    }
    colour = "green"
    for step in defaults["thresholds"]["steps"]:
        if step["value"] is None or (value is not None and value >= step["value"]):
            colour = step["color"]
    text = defaults.get("noValue", "No data") if value is None else words.get(f"{value:g}") or _number(value, defaults)
    filled = panel["options"]["colorMode"] == "background"
    axes.set_facecolor(COLOURS[colour] if filled else "#181b1f")
    axes.text(
        0.5,
        0.5,
        text,
        color="white" if filled else COLOURS[colour],
        fontsize=17,
        ha="center",
        va="center",
        transform=axes.transAxes,
    )
    axes.set(xticks=[], yticks=[])


def _lines(axes: Axes, panel: dict[str, Any], found: list[Any]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    scale = 100 if defaults.get("unit") == "percentunit" else 1
    custom = defaults.get("custom", {})
    times = sorted({when for _, points in found for when, _ in points})
    below = dict.fromkeys(times, 0.0)
    for legend, points in found:
        x, y = [when for when, _ in points], [value * scale for _, value in points]
        if custom.get("stacking", {}).get("mode") == "normal":
            y = [value if value == value else 0 for value in y]
            axes.fill_between(
                x,
                [below[when] for when in x],
                [below[when] + value for when, value in zip(x, y, strict=True)],
                label=legend,
                alpha=0.7,
            )
            below.update({when: below[when] + value for when, value in zip(x, y, strict=True)})
        elif legend.startswith("reference"):
            axes.plot(x, y, "--", color="#8e8e8e", linewidth=1, label=legend)
        else:
            axes.plot(x, y, linewidth=1.3, label=legend)
    for step in defaults.get("thresholds", {}).get("steps", []):
        if step["value"] is not None and custom.get("thresholdsStyle"):
            axes.axhline(step["value"] * scale, color=COLOURS["red"], linewidth=0.8)
    if custom.get("scaleDistribution", {}).get("type") == "log":
        axes.set_yscale("log")
    elif "min" in defaults:
        axes.set_ylim(bottom=defaults["min"] * scale)
    if "max" in defaults:
        axes.set_ylim(top=defaults["max"] * scale)
    axes.set_ylabel(UNITS.get(defaults.get("unit", "short"), ""), color="#999999", fontsize=7)
    axes.set_xlim(time.time() - SPAN_S, time.time())
    axes.set_xticks([])
    axes.grid(alpha=0.15)
    _legend_or_nothing(axes, found)


def _bars(axes: Axes, _panel: dict[str, Any], found: list[Any]) -> None:
    cumulative = sorted((float(legend.replace("+Inf", "inf")), points[-1][1]) for legend, points in found)
    shares = [
        value - before
        for (_, value), before in zip(cumulative, [0.0, *(value for _, value in cumulative)], strict=False)
    ]
    axes.barh([f"{edge:g}" for edge, _ in cumulative], [100 * share for share in shares], color=COLOURS["blue"])
    axes.set_xlabel("%", color="#999999", fontsize=7)
    _legend_or_nothing(axes, found, legend=False)


def _timeline(axes: Axes, _panel: dict[str, Any], found: list[Any]) -> None:
    for row, (_, points) in enumerate(found):
        axes.broken_barh([(when, STEP_S) for when, _ in points], (row - 0.4, 0.8), color=COLOURS["red"])
    axes.set_yticks(range(len(found)), [legend for legend, _ in found])
    axes.set_xlim(time.time() - SPAN_S, time.time())
    axes.set_xticks([])
    _legend_or_nothing(axes, found, legend=False)


def _legend_or_nothing(axes: Axes, found: list[Any], legend: bool = True) -> None:
    if not found:
        axes.text(0.5, 0.5, "No data", color="#999999", ha="center", va="center", transform=axes.transAxes)
    elif legend:
        axes.legend(fontsize=6, loc="upper left", ncols=3, facecolor="#181b1f", edgecolor="none", labelcolor="#cccccc")


def _number(value: float, defaults: dict[str, Any]) -> str:
    unit = defaults.get("unit", "short")
    return f"{value * (100 if unit == 'percentunit' else 1):.3g} {UNITS.get(unit, '')}"


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m dashboards.grafana.preview http://127.0.0.1:9090 FOLDER")
    for source in sorted(FOLDER.glob("*.json")):
        draw(json.loads(source.read_text()), sys.argv[1].rstrip("/"), Path(sys.argv[2]) / f"{source.stem}.png")
