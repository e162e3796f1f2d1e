"""A process and its surroundings: devices, other processes, files and fingerprints."""
