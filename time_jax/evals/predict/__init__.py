"""Annotating new text with a fine-tuned model."""
