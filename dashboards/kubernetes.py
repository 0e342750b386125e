"""Write the alert rules of dashboards/prometheus/rules.yml as an object of the Prometheus operator:

python -m dashboards.kubernetes
"""

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
RULES = ROOT / "dashboards" / "prometheus" / "rules.yml"
WRITTEN = ROOT / "deploy" / "kubernetes" / "components" / "monitoring" / "rules.yaml"
HEAD = "# Written by `python -m dashboards.kubernetes` from dashboards/prometheus/rules.yml.\n"


def prometheus_rule() -> str:
    """The YAML of the PrometheusRule."""
    made: dict[str, Any] = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "icestream", "labels": {"release": "monitoring"}},
        "spec": yaml.safe_load(RULES.read_text()),
    }
    return HEAD + yaml.safe_dump(made, sort_keys=False, allow_unicode=True, width=150)


if __name__ == "__main__":
    WRITTEN.write_text(prometheus_rule())
