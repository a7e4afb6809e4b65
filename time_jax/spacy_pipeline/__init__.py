"""A pipeline of spaCy whose tokenizer and components are exports, without JAX.

spaCy finds them by the entry points of the distribution. `pipeline.write` makes
a folder that `spacy.load` opens; see docs/using.md.
"""
