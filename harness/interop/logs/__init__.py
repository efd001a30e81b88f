"""Logs of other evaluators: lm-eval's and lmms-eval's result folders become a study.

folders   which files of which model and date there are
names     which stage of which strategy a folder is, by its name
mapping   the same, and more, by a file the user writes (map.yaml)
results   what a results file says of its run
rows      one sample file, document by document
metrics   which number of a row is the score, and on what scale
pairing   one task over all stages: the same documents, prompts, targets and pictures
regrade   the responses graded again by our own scorers
study     all of it together
"""
