"""Whether two paths differ by more than chance: intervals, tests, verdicts, from predictions.

`comparisons` is the way in: it reads what studies left, and gives a verdict with its numbers for
every evaluated set. The rest knows arrays alone, and nothing of studies.
"""
