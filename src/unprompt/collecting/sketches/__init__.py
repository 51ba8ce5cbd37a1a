"""Simple drawings that replace an image generator in the demo, the tutorial and the tests.

`scene` reads a prompt, `sketch` draws it, `effects` holds the styles, ``scenes/`` the drawings.
"""
