"""Gives damaged and hostile files to the readers of this project.

pytest tries a few of them. `python -m tests.attacks.NAME` tries thousands.
"""
