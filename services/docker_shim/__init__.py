"""The mediating Docker socket: every Docker client of this machine talks to this service, unchanged."""
