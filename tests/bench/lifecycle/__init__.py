"""`make bench`: what the fleet adds to an engine's own start, stop and crash.

__main__    the command line: what to run, and where to write the report
fleet       two web processes and a worker, on the stand-in engine or on real vLLM
by_hand     the very command of an instance, started and ended without us
watching    when something became so
scenes      one life with all its moments; a crash; twenty engines adopted; twenty idle
goals       what is promised (pure)
report      a section of docs/performance.md (pure)
"""
