"""A row's way through a run: requests, the plan, the batch, the answers. No MLX in here.

Modules:
feed      Where the loop's rows come from and where they go: a data set, or attempts until enough are accepted.
loop      The loop: rows become tasks, tasks ask, the engine answers, the store keeps.
plan      The order in which waiting sequences are computed, and the prefixes they share. Pure: no MLX.
prelude   The prelude: what a job asks of the model before the first row, once for a run.
requests  Requests as sequences: what is drawn from which seed, and which requests are identical.
retrying  A job whose cut-off answers are asked for again, once, with twice the room.
setting   What a job is told of its run before the first row.
task      One row's generator: its requests, and its replay from recorded completions.
"""
