"""The site's side of the simulated driver: what the kernel module, nvidia-smi and nvidia-ctk do on a real host."""
