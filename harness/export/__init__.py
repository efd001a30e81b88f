"""What leaves: our tasks for lm-eval and lmms-eval, a study's results in the forms others read.

Nothing of the harness imports this room; the command line and exported task folders do.
"""
