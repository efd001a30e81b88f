"""Narrow retraining: make the checkpoints that a study compares.

A thin layer over transformers' Trainer (and peft): one component trains, everything else stays as
it is bit by bit, and beside each stage lies what it was made from and what it cost. Anything
fancier is left to training frameworks; `harness.components.select` gives them our parameters.
"""
