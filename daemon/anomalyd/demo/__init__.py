"""The demo's stage: a small web shop's metrics, a Prometheus API over them and a webhook sink.

Only what stands outside the daemon is made here; the daemon under the demo is the code of ``anomalyd run``.
"""
