"""From files and the hub to packed arrays.

`files` turns bytes into text; `readers`, with `sentences` and `squad`, text into columns whose
values know where they stand (`tables`), as `hub` does; `sources` columns into checked `examples`
and splits, with their `labels`. `tokenize` turns examples into token ids with a model's
`tokenizer`, and keeps them; `encode` is what it does for each kind of task. `packing` lays
sequences into rows, and `loader` brings the rows to the devices in an order that is a function of
(seed, step).
"""
