"""The parts of `export/train.py`: the recipe, the network in training, and the stream of events that it learns from."""
