"""What broken and foreign runs have left on servers: what it is, how that is known, and the calls that would mend it.

Pure: a ``Scene`` in, pieces of ``Debris`` out. Asked by ``producer.janitor``, which looks, and asks again right before
each piece is mended. It never proposes to delete an instance that runs, nor one of which no other good copy was seen,
and it holds back whatever belongs to a job that may be in the middle of its cutover.
"""
