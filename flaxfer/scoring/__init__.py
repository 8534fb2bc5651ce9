"""Scores of answers that are more than a class: on the host, as the field's own scripts count them.

`entities` finds tagged spans and scores them, `answers` finds and scores answers within a context,
`retrieval` finds nearest neighbours.
"""
