"""How the transport problem is solved: one file per solver, and what they share."""
