"""Seats on the nodes of a Ray cluster, which does all that lies between machines.

Zero restarts on purpose: the driver decides what happens to a seat that died, and to its rows.

Modules:
actors   Seats behind actors of Ray, which are opened, called and ended.
connect  From ``fleet.address`` to a cluster that answers.
nodes    The nodes of a cluster, the seats that there can be on them, and who has taken places there.
quiet    Ray's signal handlers and what its libraries write, kept away from ours.
refusal  What Ray says, as errors of ours.
"""
