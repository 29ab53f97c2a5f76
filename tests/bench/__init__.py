"""`make bench`: the proxy against nginx, vllm-router and LiteLLM, on this machine.

    __main__    the command line: what to run, and where to write the report
    programs/   the synthetic engine and the load generator, in C: the load must cost little
    build       compiles them
    peers       installs what we are compared with, in environments of its own
    processes   starts pinned processes and ends them; their CPU time and memory
    fleet       our own web tier with everything on: Redis, a record, a key
    targets     what is measured, and what of each one's answers can be checked
    scenarios   what is done to each of them
    rounds      starts all of it, measures round by round, ends it
    measure     one scenario on one target: a measurement, or a refusal
    goals       what is promised and hoped for (pure)
    results     medians and round-by-round ratios (pure)
    summary     a table for the terminal (pure)
    report      docs/performance.md (pure)
    versions    what ran, on which machine
    disturbance what else the machine did meanwhile

A run in which one answer failed, was cut off or altered gives no number.
"""
