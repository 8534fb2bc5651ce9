"""Comparisons of conditions from predictions: intervals, tests and verdicts, without JAX.

`comparisons.compare` is the entry point: it reads the records and predictions of studies and
returns a verdict with its statistics for every evaluated set. Other modules work on arrays.
"""
