"""What is asked about each row, and what becomes of the answers.

A job is a dataclass whose fields are its configuration keys. ``my_conf/urgency.py``:

    from dataclasses import dataclass

    import pyarrow as pa
    from rowmill import Request, RowError

    @dataclass
    class Urgency:
        longest: int = 2000

        def schema(self):
            return pa.schema([("urgent", pa.string()), ("reason", pa.string())])

        def variables(self):
            return {"ask": ""}

        def steps(self, row):
            if len(row["text"]) > self.longest:
                raise RowError("too long", f"{len(row['text'])} characters")
            urgent = yield Request({"ask": "Is it urgent?"}, choices=("yes", "no"))
            reason = yield Request({"ask": f"Why is the answer {urgent.text}?"}, max_tokens=40)
            return {"urgent": urgent.text, "reason": reason.text}

``my_conf/job/urgency.yaml`` names the class:

    _target_: urgency.Urgency
    longest: 500

Then:

    rowmill run --config-dir my_conf job=urgency dataset=csv dataset.path=mail.csv 'prompt.user={{ text }} {{ ask }}'

``steps(row)`` is a generator: it yields requests, receives the model's answers, and returns the row's columns. A
question that depends on an answer is simply the next ``yield``; a list of requests is answered with a list.
``schema()`` gives the output columns, ``variables()`` what the prompt may use besides the row's columns. ``RowError``
makes the row an error. ``steps`` must not look at clocks or use unseeded randomness, because a resumed run replays the
recorded answers into it.

A run also calls these methods, if the job has them:

    ``open(setting)``: Before the first row and before weights load; ``setting`` (``rowmill.Setting``) says what the
        run is. Like the next two it may raise UserError.
    ``check_run(conf)``: To refuse keys of the run that do not go with the job.
    ``check_source(source, prompter)``: To refuse a data set or a tokenizer that does not.
    ``take_structure(structure, raw)``: To learn what answers must look like, ahead of ``schema`` and ``steps``.
    ``prelude(survey)``: A generator like ``steps`` that asks something once, before the first row.
    ``begin(found)``: To get what ``prelude`` returned, in every session of the run.
    ``attempts()``: To make rows of its own (``rowmill.Attempts``) instead of one for each row of the data set.
    ``choice_names()``: What the choices of its first request are called, in their order; ``preview`` shows them.
    ``fingerprint()``: A hash of the files that its output depends on, or a mapping that stands for keys of the job: a
        run does not go on where it differs.
    ``example(row, gold)``: The row as a few-shot example (``rowmill.Example``), its answer as the model would write it;
        None for none. Without it the answer is the gold label, text or JSON.
    ``answer_columns()``: Where several columns have right answers: their names, with the labels that may stand in each;
        ``gold`` is then these cells by column. None: there is one, ``dataset.gold``.
    ``made_from(columns)``: The prompt's variables behind an output row; ``export --format chat`` needs them.
    ``figures(run, source)``: How good the finished rows are, as JSON values by name; for a column ``label`` and a gold
        one, ``return rowmill.label_evaluation(run, source)``.

``rowmill new job NAME`` writes a working job with its prompt and its test. A job lies in a Python file in
``--config-dir`` or in the current folder; classes of installed modules need ``modules=[NAME]``.

Modules:
benchmark     The command ``benchmark``: from overrides to measurements on disk.
convert       The command ``convert``: from overrides to a model folder with its card.
generate      The job ``generate``: one free completion a row, or several.
label         The job ``label``: one of a fixed set of labels for each row, with its probability.
openai_batch  The job ``openai_batch``: the requests of an OpenAI batch file, each with its own messages and parameters.
perplexity    The command ``perplexity``: from overrides to windows in a checkpoint to a table of variants.
spans         The job ``spans``: mentions of some kinds in each row's text, with their exact places.
summarize     The job ``summarize``: summaries of documents of any length, from summaries of their parts.
sweep         ``rowmill run -m``: runs that differ in some keys, one after the other, on one resident model if they can.
synthesize    The job ``synthesize``: new rows until enough are accepted, each drawn, written, filtered and compared.
tune          The command ``tune``: what is fastest for a model on this machine, measured once and used by later runs.
"""
