"""Fuzzing: bytes nobody would send into everything of ours that reads what others have written.

``python -m tests.fuzz`` runs the whole (``campaign.py``; docs/fuzzing.rst), ``test_fuzz.py`` a short deterministic part
of it. A target (``targets/``) takes one input and raises for what must not be; two engines make inputs out of the same
seeds: ``guided.py`` is atheris (coverage-guided), ``plain.py`` seeded mutation, which needs nothing and measures.
"""
