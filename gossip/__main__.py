"""`python -m gossip` is `gossip`."""

from gossip.cli import main

main(prog_name="gossip")
