"""`python -m sims` is `gossip-sim`."""

from sims.cli import main

main(prog_name="gossip-sim")
