"""From words on the command line to one typed configuration and its job.

Modules:
compose   From words on the command line to one typed tree: Hydra's composition, with every mistake as one line.
conf      The configuration: typed groups composed by Hydra from ``conf/``, a user's own folder and the command line.
declared  Configuration keys as their dataclasses declare them, read from the source without importing it.
file      The command line as a file: ``rowmill run FILE.yaml`` reads one, ``--save`` writes it.
flow      Values on the command line: texts in quotes, lists and mappings as in JSON or without its quotes, and sweeps.
groups    The files that a group of the configuration can be set to: ``job=NAME`` takes ``conf/job/NAME.yaml``.
hooks     What a job may have beside ``steps`` and ``schema``: each hook is a method that a run calls if it is there.
init      ``rowmill init``: a commented configuration to start from, proposed after a look at a data file.
job       The job that the configuration names by ``_target_``, made and checked before anything is loaded for it.
load      From words on the command line to a checked configuration and its job.
new       ``rowmill new``: a new job as files that work at once: the class, its configuration, its prompt, its test.
starters  What a look at a data set tells the commands ``init`` and ``new``, and the files that they write.
typed     What a value means under its key: a text is what was typed, and a dollar sign in a prompt or a label is one.
"""
