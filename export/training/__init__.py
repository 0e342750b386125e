"""What `export/train.py` is made of: the recipe, the network in training, and the stream of events it learns from."""
