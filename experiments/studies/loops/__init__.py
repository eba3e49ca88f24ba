"""Finds recordings that make a model repeat itself, and sorts these loops by origin and type.

`mining.mine_loops` searches the inputs of `candidates`. `stickiness` tests whether a loop survives
small changes of its input. `types` distinguishes loops by their attention.
"""
