"""gunicorn, as this service needs it: boot, reload, and errors in the one shape."""
