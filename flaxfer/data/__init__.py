"""Reading of files and hub data sets, tokenization, and packing into batches.

`files` turns bytes into text; `readers`, with `delimited`, `sentences` and `squad`, and `hub` turn
text into columns whose values know their positions (`tables`); `sources` turns columns into checked
`examples` with their `labels`, and divides them into splits; `overlap` compares the splits. For
messages, `appearance` and `encodings` guess how a file is written, and `checks` looks at whole data
sets. For a first config, `sniffing` guesses the settings that read a file, `siblings` which files
belong together, and `meaning` what the columns hold.
`tokenize` has the task type encode examples with a model's `tokenizer`, and caches the token ids;
`encode` is the part that task types share. `packing` lays sequences into rows, and `loader` brings
rows to the devices in an order that is a function of (seed, step).
"""
