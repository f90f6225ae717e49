"""Text to token ids and back: templates, vocabularies, and what an answer may look like.

Modules:
channels    What a model thinks and what it answers, told apart: harmony's channels, tags around thoughts.
chat        Messages to one text: as the model was trained on it, its own control tokens marked, or raw.
choices     Choices as a trie, walked in pieces: each beginning is computed once, or not at all if it is unlikely.
examples    Few-shot examples: which rows with right answers a row's prompt shows before its own question.
grammar     The grammar that an answer must follow, as text: a structure's rules in the channel of the answer.
labels      The labels, or the kinds of spans, that a job knows, as a user writes them.
prompter    Templates to messages to the model's chat template to token ids; ids back to text.
questions   What is asked about a row: labels, several of them, a scale or a schema, as a job's configuration says it.
schema      JSON Schemas as programs write them: read, narrowed for a grammar, held against answers, as columns.
scripts     Words, lengths and sentences in any script, also where no spaces stand between words.
spelling    Generated tokens as people and the OpenAI API see them: their text, bytes and log-probabilities.
structure   What an answer must look like (JSON Schema, regular expression, choices), and its output columns.
templates   One Jinja2 template over a row's columns: sandboxed, with missing and null columns as errors.
vocabulary  Text to token ids and back, with text from cells kept apart from control tokens.
written     Cells of files without types, such as CSV: texts that compute as the numbers they read as.
"""
