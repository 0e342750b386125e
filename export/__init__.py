"""From PyTorch to what Triton serves: the network, its training, its export. The only room that needs torch."""
