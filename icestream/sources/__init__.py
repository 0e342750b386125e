"""Where events come from: ``simulation`` makes them, ``kaggle`` reads the files of the competition. ``source`` is the protocol."""
