"""What vLLM says when it dies: real logs, to hold the catalogue of causes against.

`deaths/*.log` were written by `python -m tests.corpus NAME …`, which makes a real vLLM on this CPU
fail; `gpu.toml` holds what only a GPU gives, each with its source.
"""
