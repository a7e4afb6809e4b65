"""The command line: one entry per command."""
