"""A row's way through a run: requests, the plan, the batch, the answers. No MLX in here.

Modules:
examples  Few-shot examples from a data set: which of its rows can be one.
feed      Where the loop's rows come from and where they go: a data set, or attempts until enough are accepted.
loop      The loop: rows become tasks, tasks ask, the engine answers, the store keeps.
plan      The order in which waiting sequences are computed, and the prefixes they share. Pure: no MLX.
prelude   Before the first row: what a job learns of its run, and its prelude, what it asks the model once for a run.
requests  Requests as sequences: what is drawn from which seed, and which requests are identical.
retrying  A job whose answers are asked for again, once, where they were cut off or are not what they must be.
task      One row's generator: its requests, and its replay from recorded completions.
"""
