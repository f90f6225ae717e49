"""Finished rows on their way into shards.

Modules:
columns   A shard's columns: finished rows checked, staged as JSON, and turned into typed Arrow tables.
layout    How a run's rows become shards: the columns of their files, and which rows each has.
unsealed  Finished rows that wait for the others of their shard: in memory and, soon after, staged.
"""
