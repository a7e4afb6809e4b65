"""What an encoder knows as it is, in seconds: no fine-tuning."""
