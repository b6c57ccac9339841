"""A backend that remembers and changes nothing: for trying a configuration, and the smallest example of a backend."""
