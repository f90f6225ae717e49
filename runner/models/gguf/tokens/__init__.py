"""The tokenizer of a GGUF file, from its own vocabulary.

Modules:
check      The tokenizer made of a GGUF file held against the file's vocabulary and a text in several languages.
splits     How byte-level tokenizers cut a text into words, by llama.cpp's names.
tokenizer  The tokenizer of a GGUF file, built from its own vocabulary, as the files that transformers reads.
"""
