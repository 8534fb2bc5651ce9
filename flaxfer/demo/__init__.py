"""The embedded default: a small data set written for this project, and real pretrained weights.

The data is in `data/`. The weights come from an installed package, without a model hub: `weights`
converts them once into a Hugging Face folder in the user's cache, `e5s1` reads the package's 4-bit
file, `unigram` builds the tokenizer from its pieces. `reviews` locates film reviews in another
package.
"""
