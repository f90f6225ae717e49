"""GGUF files, llama.cpp's own format, as the kind of model folder that mlx-lm loads.

Modules:
architectures  The architectures of GGUF files that are known, and their settings as mlx-lm's config.json has them.
blocks         The tensors of a GGUF file as MLX holds them: exact where it has such blocks, else at the file's bits.
convert        A GGUF file rewritten as the kind of model folder that mlx-lm loads, a few tensors in memory at a time.
file           The keys and tensors of a GGUF file, or of all pieces of a split one, as plain values.
layout         Which tensor of a GGUF file is which parameter of mlx-lm's model, and the arrays that it becomes.
loss           What a conversion has lost: a short text's perplexity with its weights, and with the file's.
making         Of which rows of which tensors a parameter is made, where it is not one tensor as it is.
pieces         The files of a model that lies in one GGUF file or in several (``NAME-00001-of-00003.gguf``).
process        One conversion in a process of its own, which a damaged file may bring down.
reader         The ``gguf`` package's reader, to which files in Ollama's own layout of gpt-oss look like llama.cpp's.
settings       What each architecture's settings in a GGUF file are called in mlx-lm's config.json.
tokens         The tokenizer of a GGUF file, from its own vocabulary.
"""
