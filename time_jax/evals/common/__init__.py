"""What the fine-tuning tasks share: batches, encoders, the training loop."""
