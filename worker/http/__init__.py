"""HTTP with servers of others, which may break its rules."""
