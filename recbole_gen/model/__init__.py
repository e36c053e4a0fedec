"""The models: one published method a file."""
