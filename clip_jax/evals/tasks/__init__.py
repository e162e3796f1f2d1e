"""Evaluation tasks: what is measured on a data set."""
