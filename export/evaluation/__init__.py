"""The parts of `export/evaluate.py`: events whose truth is known, comparisons, the model card and its pictures."""
