"""The main job, `plackett demo`: the whole loop on a small real model with simulated labelers."""
