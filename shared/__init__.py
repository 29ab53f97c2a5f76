"""What web and workers both know: records, decisions, the store, the queue, settings."""
