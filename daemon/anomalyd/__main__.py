"""``python -m anomalyd``."""

from anomalyd.cli import main

# Guarded: a process pool's workers import this module too.
if __name__ == "__main__":
    main()
