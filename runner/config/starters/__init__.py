"""What a look at a data set tells the commands ``init`` and ``new``.

Modules:
answers  Which column of a data set looks like right answers, and to what kind of question.
"""
