"""The way from a person image to what a sampler is given, and back: a window of the image, and the result put into it.

Knows neither which model samples nor who asked.
"""
