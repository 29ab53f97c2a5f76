"""One node's side: the Celery worker, its supervisor, and one shim per engine."""
