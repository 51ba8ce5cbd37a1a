"""Measurement of models: metrics with intervals, baselines, calibration and reports."""
