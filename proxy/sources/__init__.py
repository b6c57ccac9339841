"""Where objects come from: a directory of manifests, a stream of watch events, an API server."""
