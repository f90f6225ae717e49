"""This machine: its device and memory, its linear algebra, the versions that run on it.

Modules:
device  What machine this is, and how it is made ready before MLX is loaded.
facts   What is known of this process and this machine: memory taken, versions, which start of the system it is.
"""
