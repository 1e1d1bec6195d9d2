"""The flows: each file tells the story of a run, with public names of `tikmatrix_tasks` only."""
