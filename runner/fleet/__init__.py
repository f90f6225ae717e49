"""One run on many machines: seats, each a process with the model, and a driver that deals and keeps.

Modules:
conf   The group ``fleet`` of the configuration.
crew   Who takes part: seats opened where there are places, heard, left out, given up.
deal   Which seat computes what: by what seats do in a second, and by the prefixes that they hold. Pure.
fleet  A fleet: many seats behind what the loop takes for one engine.
hello  What a seat says of itself, and how it must not differ from the driver.
local  Seats on this machine: child processes, each at the other end of a pipe.
post   A seat as the driver knows it: what it is, how far it is, how often it died.
ray    Seats on the nodes of a Ray cluster, which does all that lies between machines.
seat   A seat: a process with the model, which answers turns while a thread of its own computes.
show   ``rowmill fleet``: who computed a run, and how they are doing.
start  From the configuration to a fleet.
wire   What goes to a seat and comes back, plain data only, and the way that it goes.
"""
