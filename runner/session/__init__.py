"""One session of a run: checked, opened, worked, ended.

Modules:
drive      One session of any run: leased, logged, worked on by schedule, ended, its figures and report written.
finish     After the last row: figures and a report. The rows are on disk by then, and nothing in here may fail the run.
identity   What decides a run's output, and what else is worth knowing about a session later.
pieces     A prompt taken apart for people to see: the text of each token, of the shared prefix and of the rest.
preflight  Pre-flight: what a model will take of this machine's memory, held against its limit before weights load.
prepare    What is checked and opened before weights load: the data set, the tokenizer, the prompt, the labels.
preview    What a run would do, before any weights load: its prompts, what they share, the memory and time they need.
runlog     ``run.log``: what a run's sessions said.
runnable   What a session needs of a run, whatever its rows are: a job's answers, or what another command measures.
sample     Some rows of a run looked at before it begins: what the job asks about them first, and how much they share.
session    A job's run: its store and engine opened, the loop at work, its figures.
trial      A trial: some rows of a run computed by its real model, kept by it, and what they foretell of the rest.
"""
