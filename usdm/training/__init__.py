"""Training of every part: encoder, language model, unit decoder, vocoder."""
