"""A model's files on this disk: found, fetched, converted from GGUF, measured.

Modules:
gguf     A GGUF file rewritten as the kind of model folder that mlx-lm loads.
hub      Models of the hub, in the hub client's own cache: the disk is looked at first, and a cut download goes on.
recipes  The group ``model``; recipes in ``conf/model`` for ``rowmill convert``, where they lie, which of them fit.
resolve  From the name of a model (a folder, a GGUF file, a ``wheel:`` address, a hub id) to its folder on this disk.
tensors  What a model's configuration and files say of its size, its context length and its identity; nothing is loaded.
wheels   ``wheel:`` addresses, which name a file inside a Python wheel: a model or a data set.
"""
