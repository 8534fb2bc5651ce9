"""The parts of a report, a module a section; `flaxfer.report` puts them together.

Each takes the `Material` and gives blocks of `flaxfer.document`. What they say is computed in
`flaxfer.statistics`, `flaxfer.aggregate`, `flaxfer.results` and `flaxfer.scoring`.
"""
