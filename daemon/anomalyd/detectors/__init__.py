"""Detectors: one algorithm a file, loaded by its YAML name when a rule first asks for it."""
