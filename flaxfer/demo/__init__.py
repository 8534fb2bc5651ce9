"""The embedded default: a small data set written for this project, and real pretrained weights.

The data lies in `data/`. The weights come out of an installed package, without a model hub:
`weights` converts them once into an ordinary Hugging Face folder in the user's cache, `e5s1` reads
the package's 4-bit file, `unigram` builds the tokenizer from the pieces in it. `reviews` finds film
reviews in another package.
"""
