"""FASHN VTON v1.5 (FASHN AI, 2026): virtual try-on in pixels, without a mask and without a VAE.

Plain torch; this package knows nothing of HTTP or of ComfyUI.
"""
