"""Evaluation tasks: what is measured on a dataset."""
