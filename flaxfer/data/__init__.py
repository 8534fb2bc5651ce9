"""From files and the hub to packed arrays.

`files` turns bytes into text, `readers` (or `hub`) text into columns whose values know where they
stand, `sources` columns into checked `examples` and splits, `tokenize` with a model's `tokenizer`
examples into token ids. `packing` lays them into rows, and `loader` brings the rows to the devices
in an order that is a function of (seed, step).
"""
