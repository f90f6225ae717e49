"""Many run directories at once.

Modules:
delete   ``rowmill delete``: the files of a run removed, and nothing else.
listing  ``rowmill runs``: all runs of a folder in one table.
"""
