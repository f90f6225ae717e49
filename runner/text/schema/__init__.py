"""JSON Schemas as programs write them: read, narrowed for a grammar, held against answers, as columns.

Modules:
check       Whether a whole answer is valid: JSON read without loss, held against the schema as it was given.
columns     A JSON Schema as Arrow types: what each property becomes in the output.
dialects    JSON Schemas as OpenAPI 3.0, draft 4 to 7, pydantic and zod write them, in the words of draft 2020-12.
files       A schema's file, JSON or YAML, read so that no value becomes another.
formats     Formats of texts as regular expressions, for grammars and for the check of a whole answer; dates as values.
narrow      A JSON Schema as grammars take it: narrowed where it says nothing, wider where grammars cannot follow.
nodes       The parts of a JSON Schema: its subschemas, what they refer to, what a keyword says of the type.
references  References of a JSON Schema, by address, by name or from within a part, as pointers from its root.
relaxed     A JSON Schema without its conditions, which only the check of a whole answer sees.
"""
