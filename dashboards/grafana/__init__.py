"""Grafana's dashboards as code. ``python -m dashboards.grafana`` writes json/; what Grafana loads is never edited by hand.

``panels`` has the kinds of panels there are; ``stream``, ``triton`` and ``physics`` are the dashboards; ``preview`` draws them
from a live Prometheus without Grafana.
"""
