"""What is asked about a row: labels, several of them, a scale or a schema, as a job's configuration says it.

Modules:
known     The answers that columns can have: what else a condition asks for would never be so.
question  A question about a row and the columns of its answer; plain data.
read      Questions out of a job's keys, each value checked.
"""
