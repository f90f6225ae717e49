"""What is asked about a row: labels, several of them, a scale or a schema, as a job's configuration says it.

Modules:
question  A question about a row and the columns of its answer; plain data.
read      Questions out of a job's keys, each value checked.
"""
