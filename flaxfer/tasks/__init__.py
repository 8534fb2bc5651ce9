"""Task types: what an example, a target, a loss, a prediction and a metric is."""
