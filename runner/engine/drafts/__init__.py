"""Prompt lookup: tokens that may come next, taken from the text so far, and verified by the model in one step.

Answers that copy (extracted fields, summaries, corrected texts) repeat what their prompts say. So where the latest
tokens of an answer stood before, in its prompt or in itself, those that followed there are drafted, and the model goes
through all of them at once: a step with four drafted tokens takes little longer than one without, and as many as were
right are spared steps of their own. This is for the end of a run, when few sequences are left, and for one or two at a
time; a full batch has enough to do. What was accepted and what steps took decides while the run is at work whether
tokens are drafted, and how many; ``engine.draft_tokens=0`` drafts never, ``8`` always, up to 8 at once:

    rowmill run job=summarize dataset=aclsum prompt=summarize run_name=papers
    rowmill run job=summarize dataset=aclsum prompt=summarize run_name=papers engine.draft_tokens=0
    rowmill run job=summarize dataset=aclsum prompt=summarize run_name=papers engine.draft_tokens=8

Answers are those that come without drafts: what the model says after the tokens before is drawn by the row's seed and
the token's place, with the same temperature, top_p, top_k and min_p, the same grammar, stop texts and limits; a drafted
token that is another one is thrown away, with all behind it. As with any other batch size, sums are then made in
another order: in 16 bits, two tokens that are almost equally likely can change places; in 32 bits that was not seen. So
the key is no part of a run's identity. ``rowmill status`` and the report say how many drafted tokens were right.

Nothing is drafted for models with recurrent or convolutional layers: their states cannot go back behind a guess that
was wrong, and a copy of them would have to go through the tokens that were right once more, in a step of its own after
nearly every draft. Nor is anything drafted for models that copy their caches, once the window of a layer with a sliding
one is full of a row's own tokens (a wrong guess would have overwritten keys that are still seen), and for choices. The
fake engine has no use for drafts.

Modules:
gain    Whether drafts pay, and how long they should be: by what was accepted and what steps took.
lookup  What followed the latest tokens of a text where they stood before.
"""
