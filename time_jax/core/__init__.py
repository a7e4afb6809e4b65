"""What every other folder may use: errors, arrays, files."""
