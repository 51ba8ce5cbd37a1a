"""The decoder: prompt embedding to prompt text."""

NUM_BEAMS = 4
"""Default width of the beam search of decoders and captioners."""
