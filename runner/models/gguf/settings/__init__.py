"""What each architecture's settings in a GGUF file are called in mlx-lm's config.json.

Each function takes the file and what all architectures have, and returns what this one has of its own.

Modules:
common   What many architectures have in common: rotary positions, biases, experts and layers with a window.
dense    Architectures all of whose layers are attention and one feed-forward layer.
experts  Architectures with experts, and those that keep keys and values in latent form.
gemma    Gemma 2, 3, 3n and 4.
hybrid   Architectures some of whose layers are recurrent or convolutions, which have no keys.
rotary   How a GGUF file stretches its rotary positions, as ``rope_scaling`` in config.json has it.
"""
