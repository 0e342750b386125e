"""What `export/evaluate.py` is made of: events whose truth is known, comparisons, the model card and its pictures."""
