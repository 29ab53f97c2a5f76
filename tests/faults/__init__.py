"""`make faults`: the faults of the matrix, for real, against real processes with stand-in engines.

__main__    the command line              rows/       what is done, row by row, as data
row         one row: fault, promise       matrix      all rows, by number
ground      the fleet a row is run on     running     rows run, one after the other
redis_process, fault_proxy, clock,        watch       what is looked at while a row runs
namespace, disk, traffic   the nemesis    invariants  what must hold after each
sight       who runs on this machine      report      docs/reliability.md
"""
