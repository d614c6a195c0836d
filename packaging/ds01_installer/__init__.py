"""Puts DS01 on a machine and takes it off again. Standard library only: it runs before anything of ours is there."""
