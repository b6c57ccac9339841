"""The local HTTP endpoints: read-only views of what the daemon knows."""
