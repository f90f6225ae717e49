"""Prompt lookup: tokens that may come next, taken from the text so far, and verified by the model in one step.

Answers that copy (extracted fields, summaries, corrected texts) repeat what their prompts say. So where the latest
tokens of an answer occurred before, in its prompt or in the answer itself, the tokens that followed there are drafted,
and the model verifies all of them in one step: a step with four drafted tokens takes little longer than one without,
and each that was right saves a step. This helps at the end of a run, when few sequences are left, and when only one or
two run at a time; a full batch gains nothing. Whether tokens are drafted, and how many, follows from what was accepted
and how long steps took; ``engine.draft_tokens=0`` never drafts, ``8`` always does, up to 8 tokens at once:

    rowmill run job=summarize dataset=aclsum prompt=summarize run_name=papers
    rowmill run job=summarize dataset=aclsum prompt=summarize run_name=papers engine.draft_tokens=0
    rowmill run job=summarize dataset=aclsum prompt=summarize run_name=papers engine.draft_tokens=8

Answers are the same as without drafts: each token is drawn by the row's seed and the token's place, with the same
temperature, top_p, top_k, min_p, grammar, stop texts and limits; a drafted token that differs from it is discarded,
with all that follow. As with another batch size, sums are added up in another order: in 16 bits, two tokens that are
almost equally likely can change places; in 32 bits this was not seen. So the key is not part of a run's identity.
``rowmill status`` and the report say how many drafted tokens were right.

Once the window of a sliding layer is full of a row's own tokens, a wrong guess would overwrite keys that are still
needed; and a recurrent or convolutional layer cannot take its state back. There, guesses are verified without storing
anything, and those that were right are computed once more with the next step. Recurrent models therefore draft only if
``engine.draft_tokens`` is a number: on a CPU, each token takes such layers as long as a step of its own, and even with
all guesses right a model 512 wide was 0.8 to 1.2 times as fast. Nothing is drafted for models that copy their caches,
nor for choices. The fake engine never drafts.

Modules:
gain    Whether drafts pay, and how long they should be: by what was accepted and what steps took.
lookup  What followed the latest tokens of a text where they stood before.
"""
