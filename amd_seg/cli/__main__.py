"""`python -m amd_seg.cli`, for where the script is not on the path."""

from amd_seg.cli import main

main()
