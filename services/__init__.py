"""DS01: shares one GPU server among many people."""
