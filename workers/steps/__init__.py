"""The steps of every itinerary: plain functions ``(Context) -> Outcome``.

A step looks at the servers, acts, and says what it found; it may be run any number of times. It knows LXD, not the
queue and not the store. Names of what it creates derive from the job, so that a second run finds the first one's work.
"""
