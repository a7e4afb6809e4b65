"""Two sentences of Irish that tiny tokenizers are trained on."""

TEXT = ["tá an aimsir go maith inniu", "chonaic mé an madra dubh ar an trá"]
