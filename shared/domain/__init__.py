"""Pure records and decisions: no clock, no network, no files; time is an argument."""
