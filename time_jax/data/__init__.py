"""Text to tokenised rows on disk, and rows to batches."""
