"""Tags, lemmas and dependency trees on Universal Dependencies treebanks."""
