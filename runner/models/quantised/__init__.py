"""Checkpoints that others have quantised, as they lie on the hub, read into mlx-lm's models.

GPTQ, AWQ, compressed-tensors, FP8, bitsandbytes and NVFP4 hold a matrix in tensors of their own. What is a level, a
scale and a zero per group is what MLX computes with, and stays as it is. What is not (FP8, NF4, FP4, GPTQ whose groups
follow ``desc_act``) is rounded to the next more bits that MLX has, in groups of 32; on a CPU, which computes in float32
anyway, and for ``rowmill convert`` it is exact. Inputs are never quantised.

Modules:
loading   Quantised matrices in the names and shapes of mlx-lm's models.
matrices  The tensors of a quantised checkpoint as matrices, packed for MLX and as plain numbers, lazily.
methods   Which way a checkpoint is quantised by its configuration; what it takes once loaded.
"""
