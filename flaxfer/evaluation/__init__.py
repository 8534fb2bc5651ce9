"""Predictions and metrics of a split."""
