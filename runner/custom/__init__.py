"""A user's own classes: where they may come from, what identifies them, how they are made.

Modules:
classes  A user's job or reader, named by ``_target_`` and made from the other keys beside it.
code     The source of a user's own classes: hashes that identify it, and modules imported anew when it has changed.
"""
