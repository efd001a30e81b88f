"""lm-eval's tasks as benchmarks of a study: asked by our engines, graded by their own filters.

A task's requests are built once by lm-eval and answered by every checkpoint of a sweep; then
lm-eval's filters and metrics decide each document's score. lm-eval is needed while requests are
built and while answers are graded; planning a study that was planned before, and judging one,
need neither it nor torch.
"""
