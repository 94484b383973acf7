"""Tables: which method restores what, how well, at what cost."""
