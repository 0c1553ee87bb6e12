"""Archives: where exports are kept, a directory or a prefix in an S3 bucket.

Nothing has its name in an archive before it is whole. ``place`` says what an archive can do and opens one; its two
kinds are ``directory`` and ``bucket``. ``stream`` measures what goes in and comes out, ``manifests`` is their JSON.
"""
