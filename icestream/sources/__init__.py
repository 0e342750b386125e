"""Where events come from: ``simulation`` makes them, ``replay`` reads files (``kaggle``, ``graphnet``). ``source`` has the protocols."""
