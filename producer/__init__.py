"""Everything that decides or creates work: plans, submission, reports and the command line."""
