"""The test host: builds its image, boots it, runs commands in it, pulls its plug. Standard library only."""
