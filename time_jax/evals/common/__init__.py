"""Shared by the fine-tuning tasks: batches, encoders, the training loop."""
