"""Tables of papers: their tasks, their settings, their figures, one file each. Nothing here needs torch but `command`."""
