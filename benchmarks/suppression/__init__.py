"""Does multistage training beat controls of equal compute? `python -m benchmarks.suppression`, docs/study/.

settings (what is varied) -> world (images, texts, values) -> models (what each arm trains, and after what)
-> trainer (one model) -> measures (scores of an arm's models, fused) -> summary (over seeds) -> page
"""
