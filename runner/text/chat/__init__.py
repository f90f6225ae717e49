"""Messages to one text: as the model was trained on it, its own control tokens marked, or raw.

Modules:
compiled      Jinja templates that are compiled once, and filled in with as little as possible for each row.
conversation  Messages as a model's chat template takes them: content as text or in parts, apart or joined.
marks         Control tokens that a template writes, told from the same characters in data.
raw           Raw prompts: parts joined into one text, and the spaces at its end.
template      Chat templates: messages to the text a model was trained on, with the date pinned.
"""
