"""The workbench: rules tried on history before they page anybody, judged and tuned on it.

Everything here runs the daemon's own evaluation and delivery on recorded series; no part of the daemon imports it.
"""
