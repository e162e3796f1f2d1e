"""CLIP in JAX/Flax: training at TPU scale, evaluation, weights in and out."""
