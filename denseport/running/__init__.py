"""Running nets: workers, each with a framework of its own, and what they are given and do."""
