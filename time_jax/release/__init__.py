"""From a run to a Hugging Face folder, and the proof that both are equal."""
