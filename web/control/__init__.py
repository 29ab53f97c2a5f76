"""The control API: instances and nodes, created, listed, looked at, followed and stopped."""
