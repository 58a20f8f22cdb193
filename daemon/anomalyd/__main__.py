"""``python -m anomalyd``."""

from anomalyd.cli import main

main()
