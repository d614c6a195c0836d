"""The test host under QEMU: the same site on a kernel of its own, with every controller. Standard library only."""
