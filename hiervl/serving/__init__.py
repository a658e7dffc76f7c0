"""A local page on which to try a trained network: ``python -m hiervl serve``.

``class_rows`` and ``segmenter`` know nothing of the web, ``guard`` nothing of Gradio; ``page`` lays the page out and
``server`` runs it.
"""
