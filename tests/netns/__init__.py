"""A fleet of several machines on one: each host is a network namespace with an address of its own.

Their processes, files and ports are this machine's, but what they say to each other goes over a
switch, where it can be lost: a host can be unplugged, and any two can be kept from each other.
"""
