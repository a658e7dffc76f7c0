"""A local page on which to try a trained network: ``python -m hiervl serve``.

``class_rows`` and ``segmenter`` do not depend on the web, ``guard`` does not depend on Gradio. ``page`` makes the page
and ``server`` runs it.
"""
