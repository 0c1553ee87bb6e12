"""One suite that holds for real LXD and for the simulator, in process and over HTTPS.

What differs is a bug of the simulator.
"""
