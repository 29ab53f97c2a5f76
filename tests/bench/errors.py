"""What can keep the benchmark from running."""

from __future__ import annotations


class BenchError(Exception):
    """Something is missing or did not start; says what, and what to do where that is known."""
