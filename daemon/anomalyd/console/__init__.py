"""The daemon's HTTP server: health, metrics, reload, and the API."""
