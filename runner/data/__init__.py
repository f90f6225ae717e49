"""Rows in: the files of a data set become rows by position.

Modules:
cells    Cells as Python values, those that Python cannot hold included.
columns  Rows of JSON values as Arrow columns, and each row's own values back again.
conf     The group ``dataset`` of the configuration: which rows to read.
gold     Right answers: which label, or which spans, a cell of the gold column means.
kept     The input columns that go into the output: which, under what names, and whether `datasets` can load them.
layout   Arrow data checked before a cell is read: offsets and indices that lead outside of their buffers.
load     The files of a data set: where they lie, the hash of their contents, and whether they have changed.
readers  The kinds of data sets and what reads each of them: a new kind is a line in ``READERS``.
rowhash  Hashes of rows and of their keys, by which a run knows them again.
source   Data sets in: files of many kinds, an Arrow folder, a database table or a hub data set become rows by position.
stdin    The standard input, or a named pipe, as a data set: kept in a file, as an interrupted run needs the rows again.
survey   The data set as a job's prelude sees it: samples that depend on the run's seed only.
where    ``dataset.where``: a simple filter over columns, evaluated in Arrow.
"""
