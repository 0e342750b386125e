"""Everything that watches the stream: Prometheus's rules, Alertmanager's routes, Grafana's dashboards."""
