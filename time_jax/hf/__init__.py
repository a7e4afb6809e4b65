"""Hugging Face folders: finding, reading and writing them."""
