"""What a run records about itself: metrics, goodput, profiles."""
