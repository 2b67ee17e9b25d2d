"""What a dictionary's features are good for: five measures of SAEBench (Karvonen et al. 2025), each beside baselines.

Probing, TPP and SCR need labels that recorded samples keep; absorption and RAVEL need a language model alone.
"""
