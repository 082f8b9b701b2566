"""The table of model classes."""
