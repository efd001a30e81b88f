"""Storage: what a study leaves on disk, under which names, and whether it is sound."""
