"""A light simulation of the detector: fast enough to feed the stream, realistic enough to train on.

``particles`` draws what happens, ``light`` carries its photons to the DOMs, ``readout`` turns photons into pulses and
triggers, ``simulator`` joins them. The physics is written once against the array API standard: NumPy arrays for the
stream, torch tensors (of a GPU, too) where the caller brings such draws.
"""
