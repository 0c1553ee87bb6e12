"""Redis: jobs with leases and fences, slots, operation results and events. ``keys`` documents every key."""
