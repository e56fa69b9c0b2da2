"""Several workers that train one model: who they are, how they meet, what they do when one is lost.
It imports no TensorFlow.
"""
