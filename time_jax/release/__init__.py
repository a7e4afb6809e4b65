"""Exports students as Hugging Face folders, and checks that both are equal."""
