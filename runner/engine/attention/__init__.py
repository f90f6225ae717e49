"""Attention of a batch over a shared prefix and each sequence's own suffix.

Modules:
chosen     Sparse attention: a small layer beside each one chooses the keys that a token sees, by scores of its own.
copies     Whether sequences share one copy of their prefix while they decode, or each have one: what is faster here.
head       The output head, for the rows of interest alone, and log-probabilities without all of their logits at once.
hooks      How mlx-lm's layers come to attend through caches of our own, whatever they do with what a cache gives them.
layout     The layout of one forward pass: the tokens it prefills and decodes, and where the keys of each of them lie.
parts      Attention in parts, by where the keys lie, merged exactly by the log-sum-exp of their scores.
prefix     Shared-prefix KV caches and attention: a batch of ragged sequences that hold their common prefixes once.
reach      Which keys a layer's tokens see, and where a sequence's own ones lie in its slot.
recurrent  Layers that keep a state where others keep keys and values.
replay     Decode steps like those before: ``mx.compile`` runs them again without going through the layers in Python.
resident   A resident mlx-lm model whose attention runs over shared prefixes and slots.
segments   Segments: the keys and values of a prefix that many sequences share, built once by steps that append to it.
snapshots  Snapshots: the KV of shared prefixes, computed once, held while anyone may come back to them.
"""
