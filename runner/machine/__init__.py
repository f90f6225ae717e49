"""This machine: its device and memory, its linear algebra, the versions that run on it.

Modules:
blas     A fast BLAS in the place of the one that MLX's wheel for Linux links.
device   The device that MLX runs on, and what has to be set up before MLX is loaded.
environ  Environment variables that a configuration names, as ``${oc.env:NAME}`` or ``${oc.env:NAME,DEFAULT}``.
facts    Facts about this process and this machine: memory used, versions, which boot of the system.
metal    What Macs need: their chip's name, and how much goes into one of Metal's command buffers.
sums     Sums over long axes that lose nothing: of float32 in blocks, of shares as integers.
tuned    What ``rowmill tune`` found for models of one shape on this machine.
"""
