"""The proxy in threads: any request to an engine, by instance or by model, streamed both ways."""
