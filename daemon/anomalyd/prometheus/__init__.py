"""Prometheus-compatible servers: reading query answers into blocks."""
