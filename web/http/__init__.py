"""HTTP as callers meet it: connection, headers, bodies, errors. Knows nothing of the fleet."""
