"""From a run or a fine-tuned model to a folder that others can open."""
