"""Windows of a text instead of questions: scored by a model behind the seam of an engine.

Modules:
engine  An engine whose sequences are windows: the end of each is scored, nothing is generated.
losses  How surprised a model is by each token of some windows, in batches side by side and chunk by chunk.
"""
