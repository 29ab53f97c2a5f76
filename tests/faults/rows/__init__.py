"""The rows, by what is harmed. `matrix` puts them together."""
