"""Results of several models in one table and one plot."""
