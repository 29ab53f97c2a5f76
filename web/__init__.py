"""The web tier: REST for instances, and the proxy to their engines."""
