"""What a comparison will cost: steps, tokens, time and memory on this machine."""
