"""Prompt lookup: tokens that may come next, taken from the text so far, and verified by the model in one step.

Modules:
gain    Whether drafts pay, and how long they should be: by what was accepted and what steps took.
lookup  What followed the latest tokens of a text where they stood before.
"""
