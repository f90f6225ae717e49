"""What came out of a run, read without disturbing it: rows, status, evaluation, comparison, for people.

Modules:
compare       Two runs side by side: how their configurations and their rows differ.
diversity     How different synthetic texts are from each other, and how the share of duplicates grew.
evaluate      How right a run's column is against a gold column, read once, block by block, whatever the number of rows.
perplexity    Perplexity of a run's windows, with its standard error.
progress      The progress of a working run: a tqdm bar on a terminal or in a notebook, a line per minute elsewhere.
quality       How right a run is, in figures: arrays and tables in, JSON values out.
rouge         How close summaries are to reference texts: ROUGE-1, ROUGE-2 and ROUGE-L, with intervals.
run           A run directory from Python: how far it is, what it was, its rows, its errors.
scores        How accurate labels and confidences are, with bootstrap intervals: arrays in, figures out.
show          Figures as text for people: what ``run`` and ``status`` print on the standard output.
show_preview  The output of ``preview``: prompts with their tokens in colour, and figures.
status        The state and the figures of a run directory, all of them derived from the checkpoint.
watch         ``rowmill watch``: a run seen live from a second terminal, read from its checkpoint and nowhere else.
"""
