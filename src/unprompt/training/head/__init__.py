"""Every way to fit the head of an embedder: in closed form, by gradient, or to prompts alone."""
