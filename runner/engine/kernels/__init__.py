"""What attention is computed with beside MLX's own operations, by device, and how scores are masked.

Modules:
cpu     Exponentials and rotary positions for MLX's CPU backend.
cuda    CUDA kernels of our own, each compared with MLX's operations before it is used.
packed  Keys and values in fewer bits: packed so that one array holds them, their scales and their offsets.
"""

# Scores are masked with a finite number: a part whose keys are all masked then merges with weight 0, without NaN.
MASKED = -1e30
