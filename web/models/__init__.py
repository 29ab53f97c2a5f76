"""Models by name: the catalogue, the replica that a request goes to, and starts on demand."""
