"""What a student is worth: tasks it is fine-tuned on, and official scores."""
