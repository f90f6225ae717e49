"""How right a run is, in figures: arrays and tables in, JSON values out.

Modules:
bootstrap  Samples of the same rows drawn anew, with fixed draws, and the 95% intervals of figures of theirs.
columns    Which columns are compared: the job's, the gold one, and when a value of one is right by the other.
lines      Figures of numbers, several labels, levels and spans as lines for people.
paired     Two runs on the same rows with gold: which is right more often, and whether that may be chance.
pairs      A question's answers beside the gold ones, and the figures of several labels and of levels.
rescore    A run's answers decided again from the probabilities on disk, under another prior, temperature or threshold.
scale      How near levels on a scale are to the gold ones, with bootstrap intervals over rows.
shapes     The shapes of evaluations and comparisons, as JSON has them.
spans      How right spans are: exact and partial matches with the gold ones, by kind, with bootstrap intervals.
values     How near extracted numbers and sets are to the gold ones, with bootstrap intervals over rows.
verdict    One sentence on how right a run's labels are, and what to try where they are not.
"""
