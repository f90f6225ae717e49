"""Token ids to token ids: one resident model, a batch of sequences, a prefix stored once.

Modules:
attention  Attention of a batch over a shared prefix and each sequence's own suffix.
batch      A batch: sequences in the slots of one KV set, prefilled and decoded together on one stream of the device.
budget     What an engine may take of a device, in memory, sequences and tokens, and what a model's caches take of it.
conf       The group ``engine`` of the configuration.
copying    The engine for models whose layers cannot share prefixes, as their caches or masks are of no known kind.
drafts     Prompt lookup: tokens that may come next, taken from the text so far, and verified by the model in one step.
engine     The resident MLX model's engine: continuous batches over shared prefixes.
fake       An engine without a model, for trials and tests: deterministic answers from each prompt's hash.
kernels    What attention is computed with beside MLX's own operations, by device, and how scores are masked.
lanes      Sequences at work, in prefill or decoding: what each brings to a step, and what comes of a launched step.
masks      Constrained decoding: grammars compiled over token ids, and the mask of a whole step.
open       From a model folder to an engine that serves a run: weights, budgets, batch sizes.
sampling   Drawing tokens from logits so that a row's draws depend on its own seed alone, never on its batch.
trial      Whether another way through a model gives its own logits: as close to them as the model is to itself.
tuning     What an engine finds out about its device: the fastest batch size, and what sharing a prefix costs.
weights    A model folder as modules of MLX: its weights, made ready for the device, and its tokenizer.
windows    Windows of a text instead of questions: scored by a model behind the seam of an engine.
"""
