"""`python -m mmcontrast`, for torchrun: `torchrun --nproc_per_node 2 -m mmcontrast train CONFIG`."""

from mmcontrast.cli import main

if __name__ == "__main__":
    main()
