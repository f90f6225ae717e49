"""The only truth about a run: what is committed in SQLite, and the Arrow shards that follow from it.

Modules:
counts    Sums and counts over a checkpoint's rows and sessions: totals, kinds of errors, labels, what engines did.
database  The tables of a checkpoint and how they are opened.
deaths    The rows in flight at this moment, on disk, and the deaths of earlier sessions with the rows they took down.
digests   Which committed answer belongs to which request, so that equal requests are computed once.
growth    How a run gets more rows: what went into its shards, and what may differ from it now.
identity  What a run is: its columns, and how it differs from another run.
lease     One writer for each run directory: the lease.
marks     Marks of progress over a run's time: for speed, memory and slots as curves, bounded however long it takes.
records   What the checkpoint records: completions, finished rows, rejected attempts, shards. No Arrow here.
repair    A damaged checkpoint rebuilt from whatever is intact: the shards, and the readable parts of the old one.
seats     The seats of a run's fleets: who they were, what they did, how they died.
shards    Finished rows on their way into shards.
store     The checkpoint (SQLite) and the output (Arrow shards) of a run, and the only writer of both.
"""
