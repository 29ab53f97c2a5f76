"""What this process knows of the fleet: tables that follow the store, for requests to read."""
