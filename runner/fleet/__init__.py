"""One run on many machines: seats, each a process with the model, and a driver that dispatches and keeps.

``rowmill run`` has a supervisor beside it, which starts the driver again when that dies: of its data's or a job's code,
of lack of memory, of Ray, which ends its process when the cluster's head is gone. A seat keeps the model's deaths away
from the driver and cannot do that. Without a fleet the model stays in the driver's process, although a fleet of one
local seat would do: that is one more process with 150 MB to start, an answer's way through a pipe, and nothing for
``rowmill.run`` in Python, which starts no process, and for ``benchmark``, which measures an engine by itself. What both
have in common (how a process died, rows at deaths, the engine behind one seam) is there once.

Modules:
conf        The group ``fleet`` of the configuration.
dispatch    Which seat computes what: by what seats do in a second, and by the prefixes that they hold. Pure.
fleet       A fleet: many seats behind what the loop takes for one engine.
handshake   What a seat says of itself, and how it must not differ from the driver.
load        What a seat has to compute, and how fast it is, as the dispatcher sees it.
local       Seats on this machine: child processes, each at the other end of a pipe.
member      A seat as the driver knows it: what it is, how far it is, how often it died.
membership  Who takes part: seats opened where there are places, heard, left out, given up.
protocol    What goes to a seat and comes back, plain data only, and the way that it goes.
ray         Seats on the nodes of a Ray cluster, which does all that lies between machines.
seat        A seat: a process with the model, which answers turns while a thread of its own computes.
show        ``rowmill fleet``: who computed a run, and how they are doing.
start       From the configuration to a fleet.
"""
