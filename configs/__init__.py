"""Recipes: files for ``--config``, which one's own file may import and change.

A file of one's own, wherever it lies::

    from configs import vit_b32

    def get_config():
        c = vit_b32.get_config()
        c.train.batch_size = 4096
        return c
"""
