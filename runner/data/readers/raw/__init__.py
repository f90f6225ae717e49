"""Files as they lie on the disk: decompressed, and texts as UTF-8.

Modules:
compressed  Files as bytes, decompressed by what they are and not by what they are called.
detection   The encoding that a text is in, by its bytes where they show it.
encodings   Texts in any encoding as UTF-8, and what is said of those that are in another than was said.
formats     What a file is that is no text, by how it begins, and what to do with it.
"""
