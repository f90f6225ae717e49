"""The engine for models whose layers cannot share prefixes, as their caches or masks are of no known kind.

mlx-lm's BatchGenerator runs the batch where a trial shows that it can; every row gets a copy of its prefix's cache.
Slower and larger than the other engine, exact all the same.

Modules:
batched  Which batches give each row what it gets by itself.
choices  Choices scored together: the prompts of several rows in a batch of mlx-lm, then ways through their trees.
engine   Continuous batches by mlx-lm, with a copy of its prefix's cache for each row.
even     Rows that have come equally far, side by side: for models whose caches mlx-lm cannot put into a batch.
"""
