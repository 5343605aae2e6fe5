"""Faults put to real commands: what is killed, filled, damaged or raced ends with the results of an undisturbed run.

Each kind is a module with run(count, seed, folder) -> Outcome; `python -m tests.faults` runs them all.
"""
