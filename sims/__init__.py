"""Many real agents on a virtual clock and a simulated network."""
