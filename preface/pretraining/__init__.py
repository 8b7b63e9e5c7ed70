"""Pre-training of small T5 models: a corpus without evaluation texts, its tokens, and the loop over them."""
