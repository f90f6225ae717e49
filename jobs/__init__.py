"""What is asked about each row, and what becomes of the answers.

A job is a dataclass whose fields are its keys of the configuration. Its method ``steps(row)`` is a generator: it yields
requests, is sent the model's answers, and returns the row's columns. A question that depends on an answer is simply
the next ``yield``; a list of requests is answered with a list. ``schema()`` gives the output columns, ``variables()``
what the prompt may use beside the row's columns.

``rowmill new job NAME`` writes a working one to start from, with its test. A job lies in a Python file in
``--config-dir`` or in the current folder, and ``job/NAME.yaml`` names its class as ``_target_``. Classes of installed
modules need ``modules=[NAME]``.

``steps`` must not look at clocks or use unseeded randomness, since a resumed run replays the recorded answers into it.
Raise ``RowError`` for a row that cannot be done.

Modules:
benchmark     The command ``benchmark``: from overrides to measurements on disk.
convert       The command ``convert``: from overrides to a model folder with its card.
generate      The job ``generate``: one free completion a row, or several.
label         The job ``label``: one of a fixed set of labels for each row, with its probability.
openai_batch  The job ``openai_batch``: the requests of an OpenAI batch file, each with its own messages and parameters.
perplexity    The command ``perplexity``: from overrides to windows in a checkpoint to a table of variants.
summarize     The job ``summarize``: summaries of documents of any length, from summaries of their parts.
synthesize    The job ``synthesize``: new rows until enough are accepted, each drawn, written, filtered and compared.
"""
