"""The only place that knows Hugging Face files."""
