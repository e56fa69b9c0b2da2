"""Several workers that train one model: how they meet, and what they do when one is lost.

Nothing here imports TensorFlow.
"""
