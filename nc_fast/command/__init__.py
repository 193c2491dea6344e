"""The nc-fast command."""
