"""How a run gets more rows: what went into its shards, and what may differ from it now.

Modules:
changes  How the rows of a data set differ from those that a run has seen: by position, or by key.
extend   More rows for a run: what it has is verified, what is new becomes unfinished, and no answer is deleted.
inputs   What went into each shard: a hash of every input row and of its key, recorded when the shard is sealed.
"""
