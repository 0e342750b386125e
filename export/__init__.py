"""From PyTorch to what Triton serves: networks, training, export. The only package that needs torch."""
