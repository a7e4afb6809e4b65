"""What happens in a training step: the objective, its gradient, the update."""
