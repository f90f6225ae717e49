"""Runs that read runs: one as the data of the next, several stages in one file, cascades.

Modules:
answers  What a later stage answered, put into the columns of the rows that it was asked about.
cascade  Cascades: a small model labels all rows, a large one those of which the small one is not sure.
conf     The group ``cascade`` of the configuration.
folder   A chain's folder, read like that of a run: each row of the first stage with the columns of all stages.
look     A chain as people see it: the stage at work, and a line for each of them.
plan     What a chain is, as its folder records it: its stages, and which columns come from where.
reader   A run as the data of the next one: ``dataset=run dataset.path=outputs/NAME``.
status   How far a chain is, by how far its stages are.
"""
