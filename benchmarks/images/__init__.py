"""Does multistage training beat controls of equal compute on images alone? `python -m benchmarks.images`.

settings (what is varied) -> trifeature, world (pictures, labels) -> places, views (what is trained, for what)
-> measures (scores of an arm's models, fused) -> summary (over seeds) -> page
"""
