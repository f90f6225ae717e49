"""Layers that keep a state where others keep keys and values.

Modules:
convolved  Attention whose keys and values are mixed with those of the token before, as Baichuan M1's are.
delta      Gated delta rules over blocks of tokens, where mlx-lm goes on token by token: on all devices but Apple's.
runs       The order in which a recurrent layer takes a step's tokens: runs of them, each from one state to the next.
states     Recurrent layers: a state in each slot and behind each shared prefix, copied for whoever goes on from it.
"""
