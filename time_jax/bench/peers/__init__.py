"""The same work in PyTorch, to compare with."""
