"""What many runs have in common: a table of them, answers that they share.

Modules:
answers  Answers kept across runs (``cache=true``): one SQLite file in the cache folder, open to several runs at once.
delete   ``rowmill delete``: the files of a run removed, and nothing else.
listing  ``rowmill runs``: all runs of a folder in one table.
"""
