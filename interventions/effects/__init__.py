"""Effects of components: attribution patching, direct logit attribution and path patching."""
