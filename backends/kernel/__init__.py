"""Typed doors to one kernel facility each. They know no Service; any backend may use them."""
