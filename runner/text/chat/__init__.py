"""Messages to the text a model was trained on, its own control tokens marked.

Modules:
conversation  Messages as a model's chat template takes them: content as text or in parts, apart or joined.
marks         Control tokens that a template writes, told from the same characters in data.
template      Chat templates: messages to the text a model was trained on, with the date pinned.
"""
