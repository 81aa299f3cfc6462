"""The engine: takes work on while slots are free, delivers it, and lets go of it in order."""
