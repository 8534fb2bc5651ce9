"""Studies: conditions, seeds and stages as a graph, planned, run and summarised."""
