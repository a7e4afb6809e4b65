"""`bench compare` and `bench relations`: the same work in PyTorch."""
