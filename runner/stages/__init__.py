"""Several runs in one command: a chain's stages, checked and computed one after the other.

Modules:
chain    A chain: its stages' runs begun or gone on with, one after the other, and what came of them put together.
check    All stages checked before anything loads: each against the columns that the stages before it will have made.
conf     Chains: ``stages`` in a file, each of which asks about the rows that the one before it answered.
preview  What a chain would do: a preview of each of its stages.
"""
