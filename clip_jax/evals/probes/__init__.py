"""Probes of frozen features: logistic regression and few-shot classifiers."""
