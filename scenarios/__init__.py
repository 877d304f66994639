"""The questions asked of every system, one file each."""
