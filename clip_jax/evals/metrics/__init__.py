"""Metrics and their confidence intervals: arrays in, numbers out."""
