"""anomalyd: an anomaly detection and alerting daemon that sits beside Prometheus."""

__version__ = "0.1.0"
