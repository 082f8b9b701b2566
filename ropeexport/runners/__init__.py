"""What runs a model.

``registry`` has a row for each runtime, ``runner`` the interface of a loaded model, and each
further file what one runtime needs to be one.  This package imports no library by itself.
"""
