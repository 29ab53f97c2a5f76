"""`make scale`: what the control plane costs with 10, 100 and 1,000 nodes of ten instances each.

Real: Redis as it is configured, the store, the web tier as it is run, its REST calls, Celery's
messages. Simulated: the nodes. Each announces itself, beats, sweeps, looks at its records and takes
instances through their statuses by the same calls of the store as a worker makes them, and holds
the connections of a worker; but there is no engine, and all of them live in one process.
"""
