"""`python -m dashboards.grafana`: write the dashboards as Grafana loads them."""

import json
from pathlib import Path

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards.grafana import physics, stream, triton

FOLDER = Path(__file__).parent / "json"
DASHBOARDS = {"stream": stream.dashboard, "triton": triton.dashboard, "physics": physics.dashboard}


def as_json(dashboard: Dashboard) -> str:
    """A dashboard with its panels numbered."""
    built = dashboard.build()
    for number, panel in enumerate(built.panels or [], 1):
        panel.id_val = number
    return json.dumps(built, cls=JSONEncoder, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for name, make in DASHBOARDS.items():
        (FOLDER / f"{name}.json").write_text(as_json(make()))
