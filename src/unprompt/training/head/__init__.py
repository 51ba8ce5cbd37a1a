"""Every way to fit the head of an embedder."""
