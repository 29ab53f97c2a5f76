"""Tests, by what is real in them: unit, integration, e2e; and the demo."""
