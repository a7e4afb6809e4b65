"""Raw text: where words and sentences begin, learnt from a treebank."""
